"""What every kind of ranker is built with: device and precision, a prepared backbone, linear heads, text lengths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..errors import ArtefactError, RecipeError, UsageError
from ..randomness import key
from .backbone import (
    add_lora,
    add_vocabulary,
    checkpoint_gradients,
    freeze,
    load_backbone,
    position_limit,
    read_tensors,
)
from .dense import Lora
from .dropout import use_keyed_dropout
from .encoder import Projection
from .folders import Head
from .hidden import adopt_packing
from .lean import mark_activations
from .long import WHOLE, Chunks, Extension
from .positions import Grow, extend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


class Choices(Protocol):
    """How a specification wants its backbone trained."""

    @property
    def positions(self) -> int | None: ...
    @property
    def extension(self) -> Extension | None: ...
    @property
    def dropout(self) -> float | None: ...
    @property
    def lora(self) -> Lora | None: ...
    @property
    def freeze(self) -> tuple[str, ...]: ...
    @property
    def gradient_checkpointing(self) -> bool: ...


def pick_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is not known", fix="give cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs here", fix="give device cpu")
    return device


def pick_dtype(name: str, device: str) -> torch.dtype:
    if name not in _DTYPES:
        raise UsageError(f"dtype {name!r} is not known", fix=f"choose one of {', '.join(_DTYPES)}")
    if device.startswith("cpu") and name in ("bfloat16", "float16"):
        raise UsageError(f"{name} on a CPU is about ten times slower than float32", fix="give dtype float32")
    return _DTYPES[name]


def build_backbone(
    spec: Choices, folder: Path, config: dict[str, Any], *, dtype: torch.dtype, seed: int, vocabulary: int = 0
) -> tuple[PreTrainedModel, str]:
    """The backbone in `folder`, ready to train as `spec` says, and a note on how it batches and drops out.

    Args:
        config: as `clean_config` left it; its `vocab_size` and positions grow with the model's.
        vocabulary: token ids that it must know; new ones are drawn like the others (seed).
    """
    grow = extended(spec, config, folder, seed=seed)
    backbone, note = load_backbone(folder, config, dtype=dtype, dropout=spec.dropout, grow=grow)
    if vocabulary > backbone.config.vocab_size:
        config["vocab_size"] = add_vocabulary(backbone, vocabulary, seed=seed)
    path = adopt_packing(backbone)
    mark_activations(backbone)
    freeze(backbone, spec.freeze)
    if spec.lora is not None:
        add_lora(backbone, spec.lora, seed=seed)
    use_keyed_dropout(backbone)
    if spec.gradient_checkpointing:
        checkpoint_gradients(backbone, folder)
    return backbone, f"{path}, {note}"


def extended(spec: Choices, config: dict[str, Any], folder: Path, *, seed: int) -> Grow | None:
    """What has to be done to the tensors so that the model has the positions of `spec`; `config` is changed."""
    if spec.positions is None:
        return None
    return extend(config, spec.positions, spec.extension, seed=seed, where=folder)


def saved_head(head: Head) -> Projection:
    made = Projection(head.inputs, head.outputs, bias=head.bias, activation=head.activation)
    try:
        tensors = read_tensors(head.weights)
        own = {name.rpartition(f"{head.layer}.")[2]: t for name, t in tensors.items() if f"{head.layer}." in name}
        made.linear.load_state_dict(own)
    except RuntimeError as error:
        what = f"the tensors do not fit config.json beside them ({str(error).splitlines()[-1].strip()})"
        raise ArtefactError(what, where=head.weights, fix="fetch the model again") from error
    return made


def new_head(inputs: int, outputs: int, *, seed: int) -> Projection:
    made = Projection(inputs, outputs)
    generator = torch.Generator().manual_seed(key(seed, "projection", inputs, outputs))
    with torch.no_grad():
        made.linear.weight.normal_(0, inputs**-0.5, generator=generator)
    return made


def checked_length(asked: int | None, said: int, backbone: PreTrainedModel, *, name: str, where: Path) -> int:
    """Tokens of a text: what the specification asks for, else what the folder says, within the model's positions.

    Raises:
        RecipeError: more was asked for than there are positions.
    """
    most = position_limit(backbone)
    if asked is not None and asked > most:
        fix = f"give {name} {most} or less"
        raise RecipeError(f"{name} is {asked}, this model has positions for {most} tokens", where=where, fix=fix)
    return asked or min(said, most)


def whole_length(asked: int | None, chunks: Chunks, backbone: PreTrainedModel, *, where: Path) -> int:
    """Tokens of a document that is read in chunks; only a chunk must fit the model's positions.

    Raises:
        RecipeError: it does not.
    """
    checked_length(chunks.length, chunks.length, backbone, name="chunks.length", where=where)
    return asked or WHOLE
