"""What a recipe's model must be able to do, whether it is trained or teaches; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .ranker import Ranker


@runtime_checkable
class Model(Protocol):
    """A frozen dataclass that names a ranker, such as `rankwright.models.Dense`."""

    def load(self, *, device: str = "cpu", dtype: str = "float32", seed: int = 0) -> Ranker:
        """The model itself, in evaluation mode."""
        ...

    def started_from(self, folder: str) -> Model:
        """The same training choices on a model folder that we wrote."""
        ...
