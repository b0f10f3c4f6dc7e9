"""What a recipe's model must be able to do, whether it is trained or teaches; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from .ranker import Ranker

_KEPT = ("dropout", "lora", "freeze", "gradient_checkpointing")  # how a model is trained, not what it is built of
Spec = TypeVar("Spec", bound=Any)


@runtime_checkable
class Model(Protocol):
    """A frozen dataclass that names a ranker, such as `rankwright.models.Dense`."""

    def load(self, *, device: str = "cpu", dtype: str = "float32", seed: int = 0) -> Ranker:
        """The model itself, in evaluation mode."""
        ...

    def started_from(self, folder: str) -> Model:
        """The same training choices on a model folder that we wrote."""
        ...


def continued(spec: Spec, folder: str) -> Spec:
    """The same training choices on a model folder that we wrote: the folder says what the model is built of."""
    return type(spec)(folder, **{name: getattr(spec, name) for name in _KEPT})
