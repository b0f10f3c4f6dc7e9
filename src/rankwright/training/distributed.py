"""The only file that imports torch.distributed: what the step needs of several processes, and nothing more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped

from ..types import Tensor


def start(device: str) -> None:
    """Join the process group that torchrun describes in the environment; does nothing for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")


def finish() -> None:
    if _on():
        torch.distributed.destroy_process_group()


def _on() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    return torch.distributed.get_rank() if _on() else 0


def world() -> int:
    return torch.distributed.get_world_size() if _on() else 1


def gather_objects(value: Any) -> list[Any]:
    """Small plain values of every rank, in rank order. Only text of our own making: sent as JSON, never pickled."""
    if world() == 1:
        return [value]
    import json

    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    rows = gather_rows(payload.to(_device()).unsqueeze(-1))
    return [json.loads(bytes(part.squeeze(-1).cpu().tolist())) for part in rows]


def _device() -> torch.device:
    backend = torch.distributed.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")


def gather_rows(value: Shaped[Tensor, "rows ..."]) -> list[Shaped[Tensor, "_ ..."]]:
    """Every rank's rows (counts may differ), without a graph, in rank order."""
    if world() == 1:
        return [value]
    count = torch.tensor([len(value)], device=value.device)
    counts = [torch.zeros_like(count) for _ in range(world())]
    torch.distributed.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padded = value.new_zeros((max(sizes), *value.shape[1:]))
    padded[: len(value)] = value.detach()
    parts = [torch.empty_like(padded) for _ in range(world())]
    torch.distributed.all_gather(parts, padded.contiguous())
    return [part[:size] for part, size in zip(parts, sizes)]


def own_rows_of_sum(value: Float[Tensor, "all ..."], counts: Sequence[int]) -> Float[Tensor, "rows ..."]:
    """Sum `value` over ranks and return the rows that belong to this rank (`counts` rows per rank, in order)."""
    if world() > 1:
        torch.distributed.all_reduce(value)
    begin = sum(counts[: rank()])
    return value[begin : begin + counts[rank()]]


def total(value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The sum over ranks, in place."""
    if world() > 1:
        torch.distributed.all_reduce(value)
    return value


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on any rank: decisions that change the work are taken together."""
    if world() == 1:
        return flag
    value = torch.tensor([float(flag)], device=_device())
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(value.item())


def smallest(values: Sequence[int]) -> list[int]:
    """Each value's minimum over the ranks."""
    return [min(column) for column in zip(*gather_objects(list(values)))]


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up every parameter's gradient over the ranks, once per step, in one flat message per dtype."""
    if world() == 1:
        return
    groups: dict[torch.dtype, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(parameter.dtype, []).append(parameter)
    for members in groups.values():
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        flat = torch.cat([g.reshape(-1) for g in grads])
        torch.distributed.all_reduce(flat)
        for parameter, grad, part in zip(members, grads, flat.split([g.numel() for g in grads])):
            parameter.grad = part.view_as(grad).clone()
