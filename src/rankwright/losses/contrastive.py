"""Contrastive losses: pull relevant documents above all others of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor
from .loss import Loss


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
        from ._softmax import Contrast

        relevant = mask & (targets > 0)
        competing = mask & (targets <= 0) if self.positives == "each" else mask
        row, column = relevant.nonzero(as_tuple=True)
        return Contrast.apply(scores, competing, row, column, self.temperature, self.positives)  # type: ignore[return-value]

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        return (mask & (targets > 0)).any(-1)
