"""Regularisers: what an objective asks of the representations themselves, whatever the scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float

from ..errors import RecipeError
from ..types import Reps, Tensor


@dataclass(frozen=True)
class Regulariser(ABC):
    """A function of the representations of all queries and all documents of a batch, over all processes.

    Each side's vectors are taken on their own: one a text, or one a real token of a late-interaction ranker.

    Args:
        query_weight: factor of the queries' value.
        doc_weight: factor of the documents' value.
    """

    query_weight: float = 1.0
    doc_weight: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.query_weight, self.doc_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            what = f"query_weight {self.query_weight} and doc_weight {self.doc_weight}"
            raise RecipeError(what, fix="give numbers of 0 or more, not both 0")

    def __call__(self, queries: Reps, docs: Reps) -> Float[Tensor, ""]:
        """``query_weight * of(queries) + doc_weight * of(docs)``; a side without vectors counts 0."""
        total = queries.values.new_zeros(())
        for weight, reps in ((self.query_weight, queries), (self.doc_weight, docs)):
            vectors = reps.values[reps.mask]
            if weight and len(vectors):
                total = total + weight * self.of(vectors)
        return total

    @abstractmethod
    def of(self, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
        """The value of one side's vectors, of which there is at least one."""


@dataclass(frozen=True)
class L1(Regulariser):
    """The mean over vectors of ``sum_j |x_j|``: pushes single entries to 0."""

    def of(self, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
        return vectors.abs().sum(-1).mean()


@dataclass(frozen=True)
class L2(Regulariser):
    """The mean over vectors of ``sum_j x_j^2``; a constant for vectors of length 1."""

    def of(self, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
        return vectors.square().sum(-1).mean()


@dataclass(frozen=True)
class Flops(Regulariser):
    """``sum_j (mean_i |x_ij|)^2``: few vectors may use the same dimension (Paria et al. 2020, arXiv:2004.05665)."""

    def of(self, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
        return vectors.abs().mean(0).square().sum()


@dataclass(frozen=True)
class GOR(Regulariser):
    """Global orthogonal regularisation: spreads vectors over the sphere (Zhang et al. 2017, arXiv:1708.06320).

    ``mean_weight * M1^2 + second_moment_weight * max(0, M2 - 1/dim)``, M1 and M2 the mean cosine and the mean squared
    cosine of two different vectors of one side. Both follow from the sum of the vectors and their ``dim x dim``
    second moment, so that no table of all pairs is made.

    Args:
        mean_weight: factor of the first term.
        second_moment_weight: factor of the second term.
    """

    mean_weight: float = 1.0
    second_moment_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = (self.mean_weight, self.second_moment_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            what = f"mean_weight {self.mean_weight} and second_moment_weight {self.second_moment_weight}"
            raise RecipeError(what, fix="give numbers of 0 or more, not both 0")

    def of(self, vectors: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
        from torch.nn.functional import normalize

        n, dim = vectors.shape
        unit, pairs = normalize(vectors, dim=-1), max(n * (n - 1), 1)
        own = unit.square().sum(-1)  # a vector with itself: 1, or 0 for a zero vector
        first = (unit.sum(0).square().sum() - own.sum()) / pairs
        second = ((unit.T @ unit).square().sum() - own.square().sum()) / pairs
        return self.mean_weight * first.square() + self.second_moment_weight * (second - 1 / dim).relu()
