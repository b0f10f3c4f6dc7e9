"""Losses over smooth ranks: 1 + the sum over the others of sigmoid((s_j - s_i) / T) stands for the rank of i."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from ..types import Tensor
from ._check import one_of, positive
from .loss import Loss

_Gain = Literal["exponential", "linear"]
_Discount = Literal["log2", "reciprocal", "none"]
_SAME = 64  # units in the last place by which equal reciprocal ranks may differ


@dataclass(frozen=True)
class ApproxNDCG(Loss):
    """1 - nDCG with smooth ranks; Qin et al. 2010. A query without a target above 0 does not count.

    Args:
        temperature: T divides score differences: lower is closer to the true rank, with less gradient.
        gain: ``exponential``: 2^y - 1; ``linear``: y. A target below 0 gains 0.
    """

    temperature: float = 1.0
    gain: _Gain = "exponential"

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        one_of("gain", self.gain, _Gain)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import clean, gains, ideal_dcg
        from ._pairs import Pairs

        relevant = mask & (targets > 0)
        gain = gains(targets, mask, self.gain)
        pairs = Pairs.everyone(relevant, mask)
        ranks = pairs.ranks(clean(scores, mask), self.temperature)
        known = relevant.any(-1)
        reached = pairs.by_row(pairs.chosen(gain).squeeze(-1) / (1 + ranks).log2())
        return (1 - reached / ideal_dcg(gain).masked_fill(~known, 1.0)).masked_fill(~known, 0.0)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        return (mask & (targets > 0)).any(-1)


@dataclass(frozen=True)
class ApproxMRR(Loss):
    """1 - the highest ``min(y_i, 1) / r_i`` over the relevant documents of a query, r the smooth rank.

    Equal highest ones share the gradient. A query without a target above 0 does not count.

    Args:
        temperature: T divides score differences.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        import torch

        from ._lists import clean
        from ._pairs import Pairs

        relevant = mask & (targets > 0)
        pairs = Pairs.everyone(relevant, mask)
        worth = clean(targets, mask).clamp(max=1)[pairs.row, pairs.column]
        reciprocal = worth / pairs.ranks(clean(scores, mask), self.temperature)
        table = scores.new_zeros(scores.shape).index_put((pairs.row, pairs.column), reciprocal)
        highest = table.amax(-1, keepdim=True).detach()
        equal = table >= highest * (1 - _SAME * torch.finfo(table.dtype).eps)  # sums in another order round otherwise
        return (1 - (table * equal).sum(-1) / equal.sum(-1)).masked_fill(~relevant.any(-1), 0.0)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        return (mask & (targets > 0)).any(-1)


@dataclass(frozen=True)
class ADRMSE(Loss):
    """Approximate discounted rank MSE: the mean over a query's documents of ``w(rank_i) * (r_i - rank_i)^2``.

    ``rank_i`` is the rank by target, 1 for the highest; equal targets share their mean rank, which equal scores reach
    (Lightning IR ranks them arbitrarily). Schlatt et al. 2024 (Rank-DistiLLM), arXiv:2405.07920.

    Args:
        temperature: T divides score differences; sentence-transformers' alpha is 1 / T.
        discount: w: ``log2``: 1 / log2(rank + 1); ``reciprocal``: 1 / rank; ``none``: 1 (Lightning IR's default).
    """

    temperature: float = 1.0
    discount: _Discount = "log2"

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        one_of("discount", self.discount, _Discount)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import average_ranks, clean
        from ._pairs import Pairs

        pairs = Pairs.everyone(mask, mask)
        wanted = pairs.chosen(average_ranks(clean(targets, mask), mask)).squeeze(-1)
        errors = (pairs.ranks(clean(scores, mask), self.temperature) - wanted).square()
        if self.discount == "log2":
            errors = errors / (wanted + 1).log2()
        elif self.discount == "reciprocal":
            errors = errors / wanted
        return pairs.by_row(errors) / mask.sum(-1).clamp(min=1)
