"""A ranker whose weights, gradients and optimizer state are divided among the processes (ZeRO-3, by torch's FSDP2).

Each transformer layer is put together when it is needed and taken apart behind it; gradients are summed over the
processes once a step. All processes must call `represent` and go backward equally often and in the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ..types import Reps, Side, Tensor, Texts
from . import distributed


class Sharded(nn.Module):
    """A copy of a ranker, divided among the processes; `parameters()` are this process's parts.

    The ranker itself stays whole, on the CPU between its uses: what is validated and saved is the ranker.
    """

    def __init__(self, ranker: nn.Module) -> None:
        super().__init__()
        self.whole = (ranker,)  # in a tuple: no part of this module
        self.inner = copy.deepcopy(ranker)
        mesh = init_device_mesh(next(ranker.parameters()).device.type, (distributed.world(),))
        for layer in _layers(self.inner):
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)
        for module in self._units():
            module.set_gradient_divide_factor(1.0)  # our gradients are shares of one sum, not means
            module.set_force_sum_reduction_for_comms(True)
        self.sum_after_next_backward(False)
        ranker.to("cpu")

    def forward(self, texts: Texts, side: Side) -> tuple[Tensor, Tensor]:
        reps = cast("Any", self.inner).represent(texts, side)
        return reps.values.clone(), reps.mask  # no view: FSDP hooks into what is returned here

    def represent(self, texts: Texts, side: Side) -> Reps:
        """As `Ranker.represent`; a collective."""
        return Reps(*self(texts, side))

    def compare(self, queries: Reps, docs: Reps) -> Float[Tensor, "q m"]:
        return cast("Any", self.inner).compare(queries, docs)

    @property
    def normalised(self) -> bool | None:
        return cast("Any", self.inner).normalised

    @property
    def packed(self) -> bool:
        return cast("Any", self.inner).packed

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Under the names that they have in the ranker."""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield name.removeprefix("inner."), parameter

    def sum_after_next_backward(self, on: bool) -> None:
        """Whether the next backward pass sums all gradients so far over the processes, or only adds to them."""
        cast("FSDPModule", self).set_requires_gradient_sync(on)

    def gather(self) -> None:
        """Give the whole ranker the present weights; a collective."""
        with torch.no_grad():
            parameters = dict(self.whole[0].named_parameters())
            for name, part in self.named_parameters():
                parameters[name].copy_(distributed.full(part))

    def _units(self) -> Iterator[FSDPModule]:
        return (module for module in self.modules() if isinstance(module, FSDPModule))


def _layers(model: nn.Module) -> Iterable[nn.Module]:
    """The members of the outermost lists of two and more modules of one class: a transformer's layers."""
    for child in model.children():
        members = list(child.children())
        if isinstance(child, nn.ModuleList) and len(members) > 1 and len({type(m) for m in members}) == 1:
            yield from members
        else:
            yield from _layers(child)
