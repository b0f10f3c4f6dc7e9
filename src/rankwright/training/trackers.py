"""Experiment trackers by one recipe key; log.jsonl is always written beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from ..errors import missing_extra


class Tracker(ABC):
    """Receives named numbers per step."""

    @abstractmethod
    def log(self, step: int, values: dict[str, float]) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class _TensorBoard(Tracker):
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboard", "tensorboard", "track: [tensorboard]") from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandbLike(Tracker):
    """wandb, and trackio, which has the same three calls."""

    def __init__(self, package: str, folder: Path) -> None:
        import importlib

        try:
            self._module = importlib.import_module(package)
        except ImportError:
            raise missing_extra(package, package, f"track: [{package}]") from None
        self._run = self._module.init(project="rankwright", name=folder.name)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()


class _Mlflow(Tracker):
    def __init__(self, folder: Path) -> None:
        try:
            import mlflow  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise missing_extra("mlflow", "mlflow", "track: [mlflow]") from None
        self._mlflow = mlflow
        mlflow.start_run(run_name=folder.name)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def start(names: tuple[str, ...], folder: Path) -> list[Tracker]:
    """The trackers of these names.

    Raises:
        UsageError: the package of one is not installed.
    """
    made: list[Tracker] = []
    for name in names:
        if name == "tensorboard":
            made.append(_TensorBoard(folder))
        elif name == "mlflow":
            made.append(_Mlflow(folder))
        else:
            made.append(_WandbLike(name, folder))
    return made
