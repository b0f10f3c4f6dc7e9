"""Pairwise losses: the order or the margin of two documents of one query, averaged over the query's pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor
from ._check import one_of, positive
from .loss import Loss

_Which = Literal["ordered", "top", "all", "first"]
_Weight = Literal["none", "student_rank", "teacher_rank", "difference", "squared_difference"]
_Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class MarginMSE(Loss):
    """Squared error of score margins: the mean over a query's pairs of ``((s_i - s_j) - (y_i - y_j))^2``.

    Hofstätter et al. 2020, arXiv:2010.02666. Scores must be free to take the teacher's magnitude: cosine cannot. The
    sources average over all pairs of the batch, which is the same when every list has equally many.

    Args:
        pairs: ``ordered``: pairs of different targets; ``top``: of these the pairs with the row's highest target;
            ``all``: every pair once, that of equal targets with margin 0 (as a stored pair of equal teacher scores);
            ``first``: the list's first document against each other, whatever their targets (the paper's positive
            and its negatives). In pool ``others`` the first is the query's own: TAS-B's in-batch loss.
        margin: None: the difference of the targets; else this constant for every pair.
        reduction: over the pairs of a query.
    """

    pairs: _Which = "ordered"
    margin: float | None = None
    reduction: _Reduction = "mean"

    def __post_init__(self) -> None:
        one_of("pairs", self.pairs, _Which)
        one_of("reduction", self.reduction, _Reduction)
        if self.margin is None:
            return
        positive("margin", self.margin)
        if self.pairs == "all":
            raise RecipeError(
                "a constant margin has no direction between documents of equal targets",
                fix="pairs: ordered, or leave out the margin",
            )

    @property
    def anchored(self) -> bool:
        return self.pairs == "first"

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import clean
        from ._pairs import Pairs

        scores, targets = clean(scores, mask), clean(targets, mask)
        pairs = Pairs.of(targets, mask, self.pairs)
        wanted = pairs.gap(targets) if self.margin is None else self.margin
        return pairs.reduce((pairs.gap(scores) - wanted).square(), self.reduction)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        from ._pairs import any_pair

        return any_pair(targets, mask, self.pairs)


@dataclass(frozen=True)
class RankNet(Loss):
    """Logistic loss of each pair of different targets: ``w_ij * log(1 + exp(-(s_i - s_j) / T))`` for ``y_i > y_j``.

    Burges et al. 2005. Natural logarithm (sentence-transformers takes base 2). Several sources average over all pairs
    of the batch, so that queries with more pairs weigh more: ``reduction: sum`` does so up to a constant.

    Args:
        temperature: T divides the scores; Lightning IR's temperature multiplies them.
        weight: of a pair: ``student_rank``: 1 / (r_i + r_j), r the rank by the current scores (no gradient through
            it); ``teacher_rank``: the same with the rank by targets, equal ones sharing their mean rank;
            ``difference``: y_i - y_j; ``squared_difference``: abs(y_i^2 - y_j^2).
        reduction: over the pairs of a query; the weights are no part of the mean's denominator.
    """

    temperature: float = 1.0
    weight: _Weight = "none"
    reduction: _Reduction = "mean"

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        one_of("weight", self.weight, _Weight)
        one_of("reduction", self.reduction, _Reduction)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from torch.nn.functional import logsigmoid

        from ._lists import average_ranks, clean, positions
        from ._pairs import Pairs

        scores, targets = clean(scores, mask), clean(targets, mask)
        pairs = Pairs.of(targets, mask)
        terms = -logsigmoid(pairs.gap(scores) / self.temperature)
        if self.weight == "difference":
            terms = terms * pairs.gap(targets)
        elif self.weight == "squared_difference":
            terms = terms * pairs.gap(targets.square()).abs()
        elif self.weight != "none":
            by_student = self.weight == "student_rank"
            ranks = positions(scores, targets, mask) if by_student else average_ranks(targets, mask)
            terms = terms / (pairs.chosen(ranks) + pairs.others(ranks))
        return pairs.reduce(terms, self.reduction)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        from ._pairs import any_pair

        return any_pair(targets, mask)


@dataclass(frozen=True)
class Hinge(Loss):
    """``max(0, margin - (s_i - s_j))``, the mean over a query's pairs of different targets.

    Herbrich et al. 2000; Weston and Watkins 1999.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        positive("margin", self.margin)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import clean
        from ._pairs import Pairs

        pairs = Pairs.of(clean(targets, mask), mask)
        return pairs.reduce((self.margin - pairs.gap(clean(scores, mask))).relu(), "mean")

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        from ._pairs import any_pair

        return any_pair(targets, mask)
