"""What a run folder remembers: what each step was made from and took, so that it is not redone, and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import signals, storage
from .errors import ArtefactError, UsageError
from .progress import duration, say
from .training import distributed

FILE = "steps.json"
_OURS = ("recipe.yaml", "report.html", "report.md", "model", "evaluation", "vectors", "index", "stage-1")


@dataclass(frozen=True)
class StepRecord:
    """One step as it was last done; `reused` when this session found it unchanged."""

    name: str
    seconds: float
    reused: bool


class Ledger:
    """The steps of one run folder, in the order in which this session asked for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[StepRecord] = []
        try:
            self._known = known_steps(folder)
        except ArtefactError:
            self._known = {}

    def do(
        self,
        name: str,
        inputs: Mapping[str, object],
        *,
        outputs: Sequence[Path],
        work: Callable[[], Mapping[str, float] | None],
        together: bool = False,
    ) -> bool:
        """Do `work` unless the same inputs made these very outputs before. Returns whether it was done.

        Of several processes the first decides and writes; the others wait until the outputs are there.

        Args:
            inputs: everything the outputs depend on, as plain values; their hash is the step's key.
            outputs: files or published folders.
            work: may return numbers about what it did, which `facts` tells ever after.
            together: every process does the work, not the first alone.
        """
        signals.check()
        key = fingerprint(inputs)
        known = self._known.get(name)
        first = distributed.rank() == 0
        current = first and known is not None and known["key"] == key and known["outputs"] == self._state(outputs)
        if distributed.told(current):
            known = known or {"seconds": 0.0}  # another process, which did not see the ledger before it was written
            if name in (step.name for step in self.steps):
                return False  # asked for twice in this session
            self.steps.append(StepRecord(name, known["seconds"], True))
            say(f"{name}: unchanged, taken from an earlier run ({duration(known['seconds'])} then)")
            return False
        say(f"{name} ...")
        began, facts = time.monotonic(), None
        if together:
            facts = work()
        elif first:
            with distributed.alone():
                facts = work()
        seconds = time.monotonic() - began
        if first:
            entry = {"key": key, "seconds": round(seconds, 3), "outputs": self._state(outputs)}
            self._known[name] = entry | ({"facts": dict(facts)} if facts else {})
            storage.write_json(self.folder / FILE, self._known)
        distributed.wait()
        self.steps.append(StepRecord(name, seconds, False))
        return True

    def finished_otherwise(self, name: str, inputs: Mapping[str, object]) -> bool:
        """Whether this step was finished once, from other inputs."""
        known = self._known.get(name)
        return known is not None and known["key"] != fingerprint(inputs)

    def facts(self, name: str) -> dict[str, float]:
        """What the work of this step said of itself when it was last done."""
        return self._known.get(name, {}).get("facts", {})

    def _state(self, outputs: Sequence[Path]) -> dict[str, str] | None:
        """Content hash of every output; None when one is missing or damaged."""
        state = {}
        for path in outputs:
            try:
                within = path.is_relative_to(self.folder)
                state[str(path.relative_to(self.folder) if within else path)] = content_hash(path)
            except (ArtefactError, OSError):
                return None
        return state


def known_steps(folder: Path) -> dict[str, dict[str, Any]]:
    """What `steps.json` of a run folder says.

    Raises:
        ArtefactError: it is missing or is not what `Ledger` writes.
    """
    known = storage.read_json(folder / FILE)
    entries = list(known.values()) if isinstance(known, dict) else [None]
    if not all(map(_is_step, entries)):
        raise ArtefactError("is not a list of finished steps", where=folder / FILE, fix="remove it")
    return known


def _is_step(entry: object) -> bool:
    if not isinstance(entry, dict) or not {"key", "seconds", "outputs"} <= set(entry):
        return False
    facts = entry.get("facts", {})
    return isinstance(facts, dict) and all(isinstance(n, int | float) for n in (entry["seconds"], *facts.values()))


def claim(folder: Path) -> None:
    """Refuse a folder in which a run would overwrite somebody else's files.

    Raises:
        UsageError: it is a file, or it holds files with names of ours and no run.
    """
    if distributed.rank():  # the first of several processes may have begun already
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file, a run needs a folder", where=folder, fix="choose another folder")
    if any((folder / mark).exists() for mark in (FILE, ".lock", "environment.json")):
        return
    for name in _OURS:
        if (folder / name).exists():
            raise UsageError(
                f"holds a {name!r} that is not of a run: it would be overwritten", where=folder,
                fix="choose another run folder (--folder)",
            )  # fmt: skip


def other_model(model: Path, key: str) -> bool:
    """Whether a model stands there that was made of something else."""
    try:
        return storage.read_manifest(model, "model").key != key
    except ArtefactError:
        return False


def begun(train: Path) -> dict[str, str] | None:
    """What the newest checkpoint of a training was made of, but for the threads; None where there is none."""
    for path in sorted(train.glob("checkpoints/step-*"), reverse=True):
        with suppress(ArtefactError):
            identity = storage.read_manifest(path).meta.get("identity", {})
            return {name: value for name, value in identity.items() if name != "threads"}
    return None


def content_hash(path: Path) -> str:
    if path.is_dir():
        manifest = storage.verify(path)
        return fingerprint({name: entry["sha256"] for name, entry in manifest.files.items()})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: object) -> str:
    """A short content hash of plain values (dicts, lists, strings, numbers; dataclasses by their repr)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def environment(device: str) -> dict[str, str]:
    """Versions and machine, for the report."""
    import platform
    from importlib.metadata import version

    import torch

    from . import __version__

    packages = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "bm25s")
    facts = {"rankwright": __version__, "python": platform.python_version(), "platform": platform.platform()}
    facts |= {name: version(name) for name in packages}
    facts |= {"cores": str(os.cpu_count()), "torch threads": str(torch.get_num_threads()), "device": device}
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts
