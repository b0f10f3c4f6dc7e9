"""Contrastive losses: pull relevant documents above all others of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor
from .loss import Loss

_MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class InfoNCE(Loss):
    """Softmax cross-entropy of each relevant document (target > 0) against the others (target <= 0).

    ``-log(exp(s+/T) / (exp(s+/T) + sum exp(s-/T)))``, van den Oord et al. 2018, arXiv:1807.03748.

    Args:
        temperature: T divides the scores. 0.05 suits cosine; 1.0 suits raw dot products.
        positives: with several relevant documents in a row, ``each``: every one alone against the negatives, averaged
            (relevant documents never compete); ``all``: every one against all others, averaged (SupCon's outer
            form, arXiv:2004.11362); ``any``: the probability mass of all of them together.
    """

    temperature: float = 0.05
    positives: Literal["each", "all", "any"] = "each"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RecipeError(f"temperature must be above 0, got {self.temperature}")

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        scores = (scores / self.temperature).masked_fill(~mask, 0.0)  # not even an infinity there may reach a gradient
        relevant, others = mask & (targets > 0), mask & (targets <= 0)
        count = relevant.sum(-1).clamp(min=1)
        if self.positives == "each":
            rest = _logsumexp(scores, others).unsqueeze(-1)
            values = rest.logaddexp(scores) - scores
            values = values.masked_fill(~(relevant & others.any(-1, keepdim=True)), 0.0)
            return values.sum(-1) / count
        total = _logsumexp(scores, mask)
        if self.positives == "all":
            values = (total.unsqueeze(-1) - scores).masked_fill(~relevant, 0.0)
            return values.sum(-1) / count
        return (total - _logsumexp(scores, relevant)).masked_fill(~relevant.any(-1), 0.0)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        return (mask & (targets > 0)).any(-1)


def _logsumexp(scores: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Float[Tensor, " q"]:
    """Over the masked-in places; 0 with no gradient for a row that has none (its value is not used)."""
    empty = ~mask.any(-1, keepdim=True)
    return scores.masked_fill(~mask, _MINUS_INFINITY).masked_fill(empty, 0.0).logsumexp(-1)
