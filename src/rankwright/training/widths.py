"""Scores of vectors that are cut to their first dimensions: Matryoshka (Kusupati et al. 2022, arXiv:2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch.nn.functional import normalize

from ..errors import RecipeError
from ..types import Reps, Tensor


class Comparing(Protocol):
    """What scoring needs of a ranker (`rankwright.models.Ranker` has it)."""

    @property
    def normalised(self) -> bool | None: ...
    def compare(self, queries: Reps, docs: Reps) -> Float[Tensor, "q m"]: ...


def scores_at(
    ranker: Comparing, queries: Reps, docs: Reps, widths: Sequence[int | None]
) -> dict[int | None, Float[Tensor, "q m"]]:
    """Scores of all queries against all documents at each width; None: of whole vectors.

    Raises:
        RecipeError: the ranker's vectors cannot be cut, or not so wide.
    """
    return {width: ranker.compare(*(_cut(ranker, reps, width) for reps in (queries, docs))) for width in widths}


def _cut(ranker: Comparing, reps: Reps, width: int | None) -> Reps:
    if width is None:
        return reps
    if ranker.normalised is None:
        what = "this ranker's vectors cannot be cut to their first dimensions"
        raise RecipeError(what, where="objective.dims", fix="leave out dims")
    if width > reps.values.shape[-1]:
        what = f"dims holds {width}, the vectors have {reps.values.shape[-1]} dimensions"
        raise RecipeError(what, where="objective.dims", fix="give fewer")
    values = reps.values[..., :width]
    return Reps(normalize(values, dim=-1) if ranker.normalised else values, reps.mask)
