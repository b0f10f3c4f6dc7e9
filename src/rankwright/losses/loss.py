"""The abstract loss: a pure function of scores, targets and mask, for any ranker, pool and list length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float

from ..types import Tensor


class Loss(ABC):
    """A function of ``(scores, targets, mask)``, each ``[q, m]``: query i's documents stand in row i.

    ``targets``: any supervision, higher is better. ``mask``: False where there is no document, or one that must not
    count. A masked place must change neither the value nor any gradient. Computed in the scores' own precision (the
    step hands over float32 or float64).

    ``per_query = True`` promises one value a row that depends on that row alone: the step may then score and
    differentiate a few rows at a time. Otherwise the loss sees all rows at once and returns a scalar.
    """

    per_query: ClassVar[bool] = True

    @abstractmethod
    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, "*q"]:
        """The loss of each row (0 where undefined), or a scalar when not `per_query`."""

    @property
    def anchored(self) -> bool:
        """Whether the first column is set apart: a pool over the batch's columns repeats the query's own first
        document there.
        """
        return False

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        """Rows on which the loss says anything; the mean is over these. Known without scores."""
        return mask.any(-1)
