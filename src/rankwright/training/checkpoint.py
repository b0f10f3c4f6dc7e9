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
from . import distributed, optim

KIND = "checkpoint"


@dataclass(frozen=True)
class State:
    """Everything beside tensors that the rest of a run depends on.

    Args:
        step: optimizer steps done.
        tokens: the micro-batch budget in force (it halves when memory runs out).
        graph_tokens: the graph budget in force.
        scores: the budget of scores in force.
        best: best validation value so far, at `best_step`; None before the first.
        stale: validations since the best one.
        validated: step of the latest validation.
        skipped: steps without an update because something was not finite.
        in_a_row: how many of these were the latest steps.
        scale: fp16 loss scale, None elsewhere.
        scale_good: steps since the scale last changed.
    """

    step: int = 0
    tokens: int = 4096
    graph_tokens: int = 16384
    scores: int = 4 << 20
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    validated: int = 0
    skipped: int = 0
    in_a_row: int = 0
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
    """Publish ``folder/step-<n>`` and remove all but the newest `keep`; or publish `folder` itself as the best.

    All processes call it; the first writes, whole tensors whatever they were divided among.

    What stands under later steps was damaged, else the run had gone on from there: it goes too, and does not count.
    """
    weights = distributed.collected(_trainable(model).items())
    moments = {} if best else distributed.collected(optim.state_tensors(model, optimizer).items())
    if distributed.rank():
        return
    path = folder if best else folder / f"step-{state.step:08d}"
    if path.is_dir() and not (path / storage.MANIFEST).is_file():
        storage.remove_folder(path)  # what a damaged disk left of one
    meta = {"state": asdict(state), "identity": dict(identity), "processes": distributed.world()}
    with storage.publish(path, KIND, meta=meta) as draft:
        storage.write_tensors(draft.file("model.safetensors"), weights)
        if moments:  # there are none while every step so far was skipped
            storage.write_tensors(draft.file("optimizer.safetensors"), moments)
    if not best:
        steps = _steps(folder)
        at = steps.index(path)
        for other in steps[:at] + steps[at + keep :]:
            storage.remove_folder(other)


def _trainable(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _steps(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


def newest(
    folder: Path, *, identity: Mapping[str, str], allow_drift: bool = False
) -> tuple[Path, State, list[str]] | None:
    """The newest intact checkpoint, and how it drifted from `identity`; says which were skipped and why.

    Another number of processes is no drift, nor are the threads that come with it: sums are added up in another
    order, so last digits may differ.

    Raises:
        ArtefactError: it was written by another version, which kept other facts.
        DriftError: it was made under another recipe, data, thread count or torch; the message names what differs.
    """
    for path in _steps(folder):
        try:
            manifest = storage.verify(path, KIND)
        except ArtefactError as error:
            say(f"skipped checkpoint {path.name}: {error}")
            continue
        theirs, before = dict(manifest.meta.get("identity", {})), manifest.meta.get("processes", 1)
        if before != distributed.world():
            say(f"{path.name} is of {before} process(es), goes on with {distributed.world()}: last digits may differ")
            theirs["threads"] = identity.get("threads")
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
        return path, _state(manifest, path), differing
    return None


def _state(manifest: storage.Manifest, path: Path) -> State:
    try:
        return State(**manifest.meta["state"])
    except (KeyError, TypeError) as error:
        fix = "resume with the version of rankwright that wrote it, or choose another output folder"
        raise ArtefactError(f"a checkpoint of another version ({error})", where=path, fix=fix) from None


def load_best(folder: Path, *, model: torch.nn.Module, step: int) -> None:
    """Put the best weights back, which were those after `step`.

    Raises:
        ArtefactError: damaged, or of another step.
    """
    fix = f"remove {folder.parent} to train again"
    try:
        found = _state(storage.verify(folder, KIND), folder).step
    except ArtefactError as error:
        raise ArtefactError(f"the best weights are damaged: {error.what}", where=error.where, fix=fix) from None
    if found != step:
        raise ArtefactError(f"holds the weights of step {found}, the best were those of {step}", where=folder, fix=fix)
    load(folder, model=model)


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
            parameters[name].copy_(distributed.like(value, parameters[name]))
    if optimizer is not None and (path / "optimizer.safetensors").is_file():  # verified: absent means there were none
        optim.load_state_tensors(model, optimizer, load_file(path / "optimizer.safetensors"))
