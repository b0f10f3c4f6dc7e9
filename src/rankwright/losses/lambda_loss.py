"""The LambdaLoss framework: pairs weighted by what exchanging them would change in nDCG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor
from ._check import one_of, positive
from .loss import Loss

if TYPE_CHECKING:
    from ._pairs import Pairs

_Weighting = Literal["ndcg1", "ndcg2", "ndcg2++", "lambdarank", "none"]
_Cut = Literal["either", "both"]
_Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class LambdaLoss(Loss):
    """``sum w_ij * log2(1 + exp(-(s_i - s_j) / T))`` over pairs ``y_i > y_j``; Wang et al. 2018.

    With gain G = (2^y - 1) / ideal DCG, D_r = log2(1 + r) and r the position by the current scores (no gradient
    through it; among equal scores the lower target stands first), the weights are, as in allRank:

    - ``ndcg1``: G_i / D_(r_i), over all pairs, a document with itself included (a constant);
    - ``ndcg2``: abs(1/D_d - 1/D_(d+1)) * abs(G_i - G_j) with d = abs(r_i - r_j);
    - ``lambdarank``: abs(1/D_(r_i) - 1/D_(r_j)) * abs(G_i - G_j) (Burges et al. 2006);
    - ``ndcg2++``: mu * ndcg2 + lambdarank;
    - ``none``: 1, which is RankNet in base 2, here with a cut.

    allRank clamps probabilities at 1e-10, so that a badly misordered pair gets no gradient; that is not repeated.

    Args:
        weighting: see above. sentence-transformers: ndcg2++; matchmaker: ndcg2 with ``reduction: sum``.
        mu: of ndcg2++.
        k: None: all positions; else ideal DCG and pairs are cut at position k.
        cut: a pair counts if ``either`` of its documents stands in the top k (paper, sentence-transformers), or
            ``both`` (allRank).
        temperature: T divides the scores; the sources' sigma is 1 / T.
        reduction: over the counted pairs of a query. The sources reduce over all pairs of the batch.
    """

    weighting: _Weighting = "ndcg2++"
    mu: float = 10.0
    k: int | None = None
    cut: _Cut = "either"
    temperature: float = 1.0
    reduction: _Reduction = "mean"

    def __post_init__(self) -> None:
        one_of("weighting", self.weighting, _Weighting)
        one_of("cut", self.cut, _Cut)
        one_of("reduction", self.reduction, _Reduction)
        positive("temperature", self.temperature)
        positive("mu", self.mu)
        if self.k is not None and self.k < 1:
            raise RecipeError(f"k must be at least 1, got {self.k}", fix="leave k out to count every position")

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from dataclasses import replace

        from torch.nn.functional import logsigmoid

        from ._lists import clean, positions
        from ._pairs import Pairs

        scores, targets = clean(scores, mask), clean(targets, mask)
        all_pairs = self.weighting == "ndcg1"
        pairs = Pairs.everyone(mask, mask, itself=True) if all_pairs else Pairs.of(targets, mask)
        position = positions(scores, targets, mask)
        if self.k is not None:
            one, other = pairs.chosen(position) <= self.k, pairs.others(position) <= self.k
            pairs = replace(pairs, counted=pairs.counted & (one | other if self.cut == "either" else one & other))
        lost = -logsigmoid(pairs.gap(scores) / self.temperature) / math.log(2)
        if self.weighting != "none":
            lost = lost * self._weights(pairs, position, targets, mask)
        return pairs.reduce(lost, self.reduction).masked_fill(~self.defined(targets, mask), 0.0)

    def _weights(
        self, pairs: Pairs, position: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, "n m"]:
        from ._lists import gains, ideal_dcg

        gain = gains(targets, mask, "exponential")
        ideal = ideal_dcg(gain, self.k).unsqueeze(-1)
        gain = gain / ideal.masked_fill(ideal == 0, 1.0)
        discount = 1 / (1 + position).log2()
        if self.weighting == "ndcg1":
            return pairs.chosen(gain * discount).expand(pairs.counted.shape)
        apart = pairs.gap(position).abs().clamp(min=1)  # 0 only for a document and itself, which is no pair here
        by_distance = 1 / (1 + apart).log2() - 1 / (2 + apart).log2()
        weights = {
            "ndcg2": lambda: by_distance,
            "lambdarank": lambda: pairs.gap(discount).abs(),
            "ndcg2++": lambda: self.mu * by_distance + pairs.gap(discount).abs(),
        }[self.weighting]()
        return weights * pairs.gap(gain).abs()

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        from ._pairs import any_pair

        gain = (mask & (targets > 0)).any(-1)
        if self.weighting == "ndcg1":
            return gain
        return any_pair(targets, mask) if self.weighting == "none" else any_pair(targets, mask) & gain
