"""Slimmer graphs: the output of an activation function is not kept for the backward pass but computed again.

A transformer's feed-forward block keeps its widest tensor twice, before and after the activation; the second follows
from the first at a few per cent of the block's cost. The recomputed bits are the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class _Made(NamedTuple):
    """An activation's output, as long as it lives, and what it was made from."""

    output: weakref.ref[Tensor]
    module: nn.Module
    source: Tensor


_made: ContextVar[dict[int, _Made] | None] = ContextVar("rankwright_lean", default=None)


class _Again(NamedTuple):
    """What is kept in place of an activation's output."""

    module: nn.Module
    source: Tensor
    shape: torch.Size


def mark_activations(model: nn.Module) -> None:
    """Prepare the model's activation functions; `slim` then works on its forward pass."""
    from transformers.activations import ACT2CLS

    known = {entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()}
    kinds = tuple(kind for kind in known if isinstance(kind, type))
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(_note)


def _note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    made = _made.get()
    if made is not None and torch.is_grad_enabled():
        made[output.data_ptr()] = _Made(weakref.ref(output), module, inputs[0].detach())


@contextmanager
def slim() -> Iterator[None]:
    """Within the block, a graph keeps what an activation was computed from in place of what it gave."""
    made: dict[int, _Made] = {}

    def pack(tensor: Tensor) -> Tensor | _Again:
        found = made.get(tensor.data_ptr())
        # the address alone is no proof: a tensor that died left it to another
        output = None if found is None else found.output()
        if found is None or output is None or output.numel() != tensor.numel() or not tensor.is_contiguous():
            return tensor
        return _Again(found.module, found.source, tensor.shape)

    def unpack(kept: Tensor | _Again) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return kept.module.forward(kept.source).view(kept.shape)

    token = _made.set(made)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _made.reset(token)
