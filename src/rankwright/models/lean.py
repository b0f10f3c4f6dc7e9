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
    """An activation's output, as long as it lives, the version of its values, and what it was made from."""

    output: weakref.ref[Tensor]
    version: int
    module: nn.Module
    source: Tensor


_made: ContextVar[dict[int, _Made] | None] = ContextVar("rankwright_lean", default=None)


_OUTPUT_IS_KEPT = (nn.ReLU, nn.Sigmoid, nn.Tanh)  # by their own gradient: their input would come on top of it


class _Again(NamedTuple):
    """What is kept in place of an activation's output."""

    module: nn.Module
    source: Tensor
    shape: torch.Size


def mark_activations(model: nn.Module) -> None:
    """Prepare the model's activation functions; `slim` then works on its forward pass."""
    from transformers.activations import ACT2CLS

    known = {entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()}
    kinds = tuple(kind for kind in known if isinstance(kind, type) and not issubclass(kind, _OUTPUT_IS_KEPT))
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(_note)


def _note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    made, source = _made.get(), inputs[0]
    # another precision: autocast had a hand in it, and is gone when the output is computed again
    if made is None or not torch.is_grad_enabled() or output.dtype != source.dtype:
        return
    address = output.data_ptr()

    def forget(reference: weakref.ref[Tensor]) -> None:  # else every layer's source would live until the block ends
        found = made.get(address)
        if found is not None and found.output is reference:
            del made[address]

    made[address] = _Made(weakref.ref(output, forget), output._version, module, source.detach())


@contextmanager
def slim() -> Iterator[None]:
    """Within the block, a graph keeps what an activation was computed from in place of what it gave."""
    made: dict[int, _Made] = {}

    def pack(tensor: Tensor) -> Tensor | _Again:
        found = made.get(tensor.data_ptr())
        # the address alone is no proof: a tensor that died left it to another
        output = None if found is None else found.output()
        if found is None or output is None or output._version != found.version:  # changed in place
            return tensor.detach()  # a node that held its own output would live for ever where no backward reaches it
        if output.numel() != tensor.numel() or not tensor.is_contiguous():
            return tensor.detach()
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
        made.clear()  # the graph holds the hooks, and they hold this
