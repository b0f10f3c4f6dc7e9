"""Contrastive losses: pull relevant documents above all others of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor
from ._check import positive
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
        positive("temperature", self.temperature)

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


@dataclass(frozen=True)
class SymmetricInfoNCE(Loss):
    """`InfoNCE` in both directions: a query finds its documents, and a relevant document finds its queries.

    ``(1 - w) * mean over queries + w * mean over the documents relevant to some query``; a document's candidates are
    the queries of the batch, so it needs ``against: batch`` and sees all rows at once. As CLIP (arXiv:2103.00020) and
    sentence-transformers' symmetric ranking loss, where documents that are relevant to no query compete only in the
    first direction.

    Args:
        temperature: T divides the scores, in both directions.
        positives: as in `InfoNCE`.
        backward: w, from 0 to 1, the share of the direction from documents to queries.
    """

    per_query: ClassVar[bool] = False

    temperature: float = 0.05
    positives: Literal["each", "all", "any"] = "each"
    backward: float = 0.5

    def __post_init__(self) -> None:
        InfoNCE(self.temperature, self.positives)
        if not 0 <= self.backward <= 1:
            raise RecipeError(f"backward must be from 0 to 1, got {self.backward}")

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, ""]:
        one_way = InfoNCE(self.temperature, self.positives)
        value = scores.new_zeros(())
        for share, parts in (
            (1 - self.backward, (scores, targets, mask)),
            (self.backward, (scores.T, targets.T, mask.T)),
        ):
            value = value + share * one_way(*parts).sum() / one_way.defined(*parts[1:]).sum().clamp(min=1)
        return value
