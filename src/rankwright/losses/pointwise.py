"""Pointwise losses: the score of each document against its own target, averaged over the query's documents."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float

from ..types import Tensor
from ._check import positive
from .loss import Loss


@dataclass(frozen=True)
class PointwiseMSE(Loss):
    """The mean over a query's documents of ``(s_i - y_i)^2``: the ranker learns the teacher's scores themselves.

    With one positive and one negative a query it is matchmaker's ``MSETeacherPointwise``.
    """

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import clean

        errors = (clean(scores, mask) - clean(targets, mask)).square()
        return errors.sum(-1) / mask.sum(-1).clamp(min=1)


@dataclass(frozen=True)
class PointwiseBCE(Loss):
    """Binary cross-entropy of ``sigmoid(s_i / T)`` with the target as a probability, the mean over the documents.

    Args:
        temperature: T divides the scores.

    A target above 1 counts as 1, one below 0 as 0: a loss of a grade 2 would have no minimum.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from torch.nn.functional import binary_cross_entropy_with_logits

        from ._lists import clean

        logits = clean(scores, mask) / self.temperature
        lost = binary_cross_entropy_with_logits(logits, clean(targets, mask).clamp(0, 1), reduction="none")
        return lost.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
