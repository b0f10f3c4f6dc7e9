"""Trackers: each gets every number under its own name; a missing package is named with its extra."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rankwright.errors import UsageError
from rankwright.training import trackers


class Recorder(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.seen: list = []
        self.init = lambda **given: self.seen.append(("init", given["name"]))
        self.log = lambda values, step: self.seen.append((step, values))
        self.finish = lambda: self.seen.append("end")
        self.start_run = lambda run_name: self.seen.append(("init", run_name))
        self.log_metrics = lambda values, step: self.seen.append((step, values))
        self.end_run = lambda: self.seen.append("end")


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_gets_every_number(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    module = Recorder(name)
    monkeypatch.setitem(sys.modules, name, module)
    (tracker,) = trackers.start((name,), tmp_path / "stage")
    tracker.log(3, {"train/loss": 0.5})
    tracker.close()
    assert module.seen == [("init", "stage"), (3, {"train/loss": 0.5}), "end"]


def test_tensorboard_gets_every_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen: list = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            seen.append(Path(folder).name)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, value, step))

        def close(self) -> None:
            seen.append("end")

    fake = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", fake)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(writer=fake))  # type: ignore[arg-type]
    (tracker,) = trackers.start(("tensorboard",), tmp_path)
    tracker.log(1, {"a": 1.0, "b": 2.0})
    tracker.close()
    assert seen == ["tensorboard", ("a", 1.0, 1), ("b", 2.0, 1), "end"]


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_missing_tracker_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError) as caught:
        trackers.start((name,), tmp_path)
    assert f"rankwright[{name}]" in str(caught.value)
