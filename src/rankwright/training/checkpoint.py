"""Checkpoints: weights, optimizer, step; the newest two and the best are kept; resume finds the newest intact one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from .. import storage
from ..errors import ArtefactError, DriftError
from ..progress import say
from ..types import Tensor
from . import optim

KIND = "checkpoint"


@dataclass(frozen=True)
class State:
    """Everything beside tensors that the rest of a run depends on.

    Args:
        step: optimizer steps done.
        tokens: the micro-batch budget in force (it halves when memory runs out).
        graph_tokens: the graph budget in force.
        best: best validation value so far, at `best_step`; None before the first.
        stale: validations since the best one.
        skipped: steps without an update because something was not finite.
        scale: fp16 loss scale, None elsewhere.
        scale_good: steps since the scale last changed.
    """

    step: int = 0
    tokens: int = 4096
    graph_tokens: int = 16384
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    skipped: int = 0
    scale: float | None = None
    scale_good: int = 0


def save(
    folder: Path,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: State,
    identity: Mapping[str, str],
    keep: int = 2,
    best: bool = False,
) -> None:
    """Publish ``folder/step-<n>`` and remove all but the newest `keep`; or publish `folder` itself as the best."""
    path = folder if best else folder / f"step-{state.step:08d}"
    meta = {"state": asdict(state), "identity": dict(identity)}
    with storage.publish(path, KIND, meta=meta) as draft:
        storage.write_tensors(draft.file("model.safetensors"), _trainable(model))
        if not best:
            storage.write_tensors(draft.file("optimizer.safetensors"), optim.state_tensors(model, optimizer))
    if not best:
        for old in _steps(folder)[keep:]:
            storage.remove_folder(old)


def _trainable(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _steps(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


def newest(folder: Path, *, identity: Mapping[str, str], allow_drift: bool = False) -> tuple[Path, State] | None:
    """The newest intact checkpoint; says which were skipped and why.

    Raises:
        DriftError: it was made under another recipe, data, thread count or torch; the message names what differs.
    """
    for path in _steps(folder):
        try:
            manifest = storage.verify(path, KIND)
        except ArtefactError as error:
            say(f"skipped checkpoint {path.name}: {error}")
            continue
        theirs = manifest.meta["identity"]
        differing = [
            f"{name} was {theirs.get(name)}, is {identity.get(name)}"
            for name in sorted(set(theirs) | set(identity))
            if theirs.get(name) != identity.get(name)
        ]
        if differing and not allow_drift:
            raise DriftError(
                "cannot resume: " + "; ".join(differing),
                where=path,
                fix="restore what changed, choose another output folder, or pass --allow-drift to go on regardless",
            )
        if differing:
            say("resuming in spite of drift: " + "; ".join(differing))
        return path, State(**manifest.meta["state"])
    return None


def load(path: Path, *, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Put a checkpoint's weights (and optimizer state) back."""
    weights = load_file(path / "model.safetensors")
    parameters = dict(model.named_parameters())
    expected = set(_trainable(model))
    if set(weights) != expected:
        odd = sorted(set(weights) ^ expected)[:3]
        raise ArtefactError(f"holds other parameters than the model trains, e.g. {odd}", where=path)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    if optimizer is not None:
        optim.load_state_tensors(model, optimizer, load_file(path / "optimizer.safetensors"))
