"""Distribution losses: the student's softmax over a query's documents against one made from the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from ..types import Tensor
from ._check import one_of, positive
from .loss import Loss

_Normalise = Literal["softmax", "sum"]


@dataclass(frozen=True)
class KLDivergence(Loss):
    """``KL(softmax(y / T_y) || softmax(s / T))`` over the documents of a query.

    Kullback and Leibler 1951; as distillation Hinton et al. 2015, arXiv:1503.02531 (whose factor T^2 is left to the
    term's weight). With both temperatures 1: Trove's ``kl`` and Lightning IR's ``KLDivergence``.

    Args:
        temperature: T divides the scores.
        target_temperature: T_y divides the targets; Trove has none, that is 1.
    """

    temperature: float = 1.0
    target_temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        positive("target_temperature", self.target_temperature)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import log_softmax

        ours, _ = log_softmax(scores, mask, self.temperature)
        theirs, share = log_softmax(targets, mask, self.target_temperature)
        return (share * (theirs - ours)).sum(-1)


@dataclass(frozen=True)
class SoftCrossEntropy(Loss):
    """``-sum_i p_i * log softmax(s / T)_i`` where p is a distribution made from the targets of a query.

    Args:
        temperature: T divides the scores.
        target_temperature: divides the targets before their softmax.
        normalise: ``softmax``: p = softmax(y / T_y), the KL divergence plus a constant; ``sum``: p = y / sum(y), for
            targets that are weights or probabilities (below 0 counts as 0, a query whose targets are all 0 does not
            count, and target_temperature has no effect).
    """

    temperature: float = 1.0
    target_temperature: float = 1.0
    normalise: _Normalise = "softmax"

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        positive("target_temperature", self.target_temperature)
        one_of("normalise", self.normalise, _Normalise)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import clean, log_softmax

        ours, _ = log_softmax(scores, mask, self.temperature)
        if self.normalise == "softmax":
            _, share = log_softmax(targets, mask, self.target_temperature)
        else:
            weights = clean(targets, mask).clamp(min=0)
            total = weights.sum(-1, keepdim=True)
            share = weights / total.masked_fill(total == 0, 1.0)
        return -(share * ours).sum(-1)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        return mask.any(-1) if self.normalise == "softmax" else (mask & (targets > 0)).any(-1)


@dataclass(frozen=True)
class Pearson(Loss):
    """``1 - r``, r the correlation of scores and targets over the documents of a query (Pearson 1895).

    Neither scale nor offset of the scores matters. A query with fewer than two different targets does not count;
    equal scores give 1 and no gradient, for there its direction does not exist and its length has no bound.
    """

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._pairs import any_pair

        known, told = self.defined(targets, mask), any_pair(scores.detach(), mask)
        use = mask & (known & told).unsqueeze(-1)
        ours, theirs = _unit(scores, use), _unit(targets, use)
        return (1 - (ours * theirs).sum(-1)).masked_fill(~known, 0.0)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        from ._pairs import any_pair

        return any_pair(targets, mask)


def _unit(values: Float[Tensor, "q m"], use: Bool[Tensor, "q m"]) -> Float[Tensor, "q m"]:
    """Each row centred and of length 1; rows not in use are 0. Scaled by the largest first, so that no square
    overflows or vanishes."""
    from ._lists import clean

    values = clean(values, use)
    centred = clean(values - values.sum(-1, keepdim=True) / use.sum(-1, keepdim=True).clamp(min=1), use)
    empty = ~use.any(-1, keepdim=True)
    centred = centred / centred.detach().abs().amax(-1, keepdim=True).masked_fill(empty, 1.0)
    return centred / centred.square().sum(-1, keepdim=True).masked_fill(empty, 1.0).sqrt()
