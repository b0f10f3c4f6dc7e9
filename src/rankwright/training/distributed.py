"""What training and encoding need of several processes: to join them, to agree, to gather and to sum; nothing more.

torch is imported where it is used: a command of one process that needs none waits for none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from ..errors import ResourceError, UsageError
from ..types import Tensor
from .watch import Watch

_JOIN = timedelta(minutes=5)
_WORK = timedelta(days=30)  # one may tokenise for hours while the others wait; who dies is noticed by the watch
_BROKEN = ("connection closed by peer", "connection reset", "connection refused", "broken pipe", "nccl", "gloo")

_watch: Watch | None = None  # None: this process is the only one
_alone = 0


# --- the processes -------------------------------------------------------------------------------


def asked_for() -> tuple[int, int]:
    """(rank, world) as the environment has them, torchrun's way; (0, 1) where it says nothing.

    Raises:
        UsageError: it says something that is no such pair.
    """
    given = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if given[1] in (None, "", "1"):
        return 0, 1
    missing = [n for n in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]
    fix = "start with torchrun --nproc-per-node N -m rankwright ..., or unset WORLD_SIZE for one process"
    if missing:
        raise UsageError(f"WORLD_SIZE is {given[1]}, but {', '.join(missing)} is not set", fix=fix)
    try:
        rank, world = (int(value or 0) for value in given)
    except ValueError:
        raise UsageError(f"RANK {given[0]!r} of WORLD_SIZE {given[1]!r} is no number", fix=fix) from None
    if not 0 <= rank < world:
        raise UsageError(f"RANK is {rank}, WORLD_SIZE {world}", fix=fix)
    return rank, world


def start() -> None:
    """Join the process group that the environment describes; does nothing for a single process.

    Raises:
        UsageError: the environment is incomplete, or this machine has fewer CUDA devices than processes.
        ResourceError: the others did not come.
    """
    global _watch
    rank, world = asked_for()
    if world == 1 or _watch is not None:
        return
    import torch

    place = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available() and place < torch.cuda.device_count()
    if cuda:
        torch.cuda.set_device(place)
    try:
        store = next(torch.distributed.rendezvous("env://", rank, world, timeout=_JOIN))[0]
        _watch = Watch(store.clone, rank=rank, world=world)  # type: ignore[attr-defined]
        # each tensor goes by the way of its device; CUDA's begins with the first tensor that is there
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_WORK)
        wait()
    except RuntimeError as error:
        what = f"process {rank} of {world} could not join the others ({str(error).splitlines()[0][:200]})"
        raise ResourceError(what, fix="check that all were started and that MASTER_ADDR can be reached") from error


def finish() -> None:
    """Wait for the others and leave."""
    global _watch
    if _watch is None:
        return
    import torch

    wait()  # until here another may fail
    _watch.stop()
    wait()  # the first process holds what the others' watches look at
    torch.distributed.destroy_process_group()
    _watch = None


def fail(code: int) -> bool:
    """End the other processes too, with this exit code; whether this one is the first to fail, and so says why."""
    return _watch is None or _watch.fail(code)


def leave(code: int) -> None:
    """End this process with the exit code of the one that failed first."""
    if _watch is None:  # it had not joined them
        raise SystemExit(code)
    _watch.leave(code)


def as_loss(error: BaseException) -> ResourceError | None:
    """A typed error, if this is how a collective ends when a process on the other side has gone."""
    if not isinstance(error, RuntimeError) or not any(sign in str(error).lower() for sign in _BROKEN):
        return None
    what = "another process ended without a word"
    return ResourceError(what, fix="see whether memory ran out; the same command goes on")


def rank() -> int:
    return 0 if _watch is None or _alone else _watch.rank


def world() -> int:
    return 1 if _watch is None or _alone else _watch.world


def own_cuda(name: str) -> str:
    """This process's CUDA device: the one of its number on this machine.

    Raises:
        UsageError: there is none left for it, or `name` gives all of them the same.
    """
    import torch

    place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name != "cuda":
        raise UsageError(f"device {name!r} is one, there are {world()} processes", fix="give device auto or cuda")
    if place >= there:
        fix = f"start {max(1, there)} processes on this machine (--nproc-per-node), or give device cpu"
        raise UsageError(f"process {place} of this machine has no CUDA device: there are {there}", fix=fix)
    return f"cuda:{place}"


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process works as if it were the only one: what the first does while the others wait."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


@contextmanager
def first_alone() -> Iterator[None]:
    """The block is done by the first process, then by the others, which find what it wrote."""
    if world() == 1:
        yield
        return
    if rank():
        wait()
    with alone():
        yield
    if not rank():
        wait()


def wait() -> None:
    """Until every process is here."""
    any_rank(False)


# --- plain values --------------------------------------------------------------------------------


def gather_objects(value: Any) -> list[Any]:
    """Small plain values of every rank, in rank order. Only text of our own making: sent as JSON, never pickled."""
    if world() == 1:
        return [value]
    import torch

    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(part.numpy().tobytes()) for part in gather_rows(payload)]


def told(value: Any) -> Any:
    """The first process's plain value."""
    return gather_objects(value if rank() == 0 else None)[0]


def smallest(values: Sequence[int]) -> list[int]:
    """Each value's minimum over the ranks."""
    return [min(column) for column in zip(*gather_objects(list(values)))]


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on any rank: decisions that change the work are taken together."""
    if world() == 1:
        return flag
    import torch

    return bool(total(torch.tensor([float(flag)])).item())


@dataclass(frozen=True)
class Team:
    """The processes as `rankwright.search.encode` wants them."""

    rank: int
    world: int

    @classmethod
    def of_all(cls) -> Team:
        return cls(rank(), world())

    def told(self, value: Any) -> Any:
        """The first process's plain value."""
        return told(value)

    def gathered(self, rows: Shaped[np.ndarray, "rows dim"]) -> list[Shaped[np.ndarray, "_ dim"]]:
        """Every process's rows, in rank order; `dim` may be 0 where there are none."""
        if self.world == 1:
            return [rows]
        import torch

        dim = max(gather_objects(int(rows.shape[1])))
        own = np.ascontiguousarray(rows if len(rows) else np.empty((0, dim), rows.dtype))
        return [part.numpy() for part in gather_rows(torch.from_numpy(own))]


# --- tensors -------------------------------------------------------------------------------------


def gather_rows(value: Shaped[Tensor, "rows ..."]) -> list[Shaped[Tensor, "_ ..."]]:
    """Every rank's rows (counts may differ), without a graph, in rank order."""
    if world() == 1:
        return [value]
    import torch

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
    total(value)
    begin = sum(counts[: rank()])
    return value[begin : begin + counts[rank()]]


def total(value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The sum over ranks, in place."""
    if world() > 1:
        import torch

        torch.distributed.all_reduce(value)
    return value


def sum_gradients(parameters: Iterable[Any]) -> None:
    """Add up every parameter's gradient over the ranks, once per step, in one flat message per dtype.

    A parameter that no rank has a gradient for keeps none, as in one process: the optimizer leaves it alone.
    """
    if world() == 1:
        return
    import torch

    trained = [p for p in parameters if p.requires_grad]
    present = total(torch.tensor([float(p.grad is not None) for p in trained])).tolist()
    groups: dict[torch.dtype, list[torch.nn.Parameter]] = {}
    for parameter, count in zip(trained, present):
        if count:
            groups.setdefault(parameter.dtype, []).append(parameter)
    for members in groups.values():
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        flat = total(torch.cat([g.reshape(-1) for g in grads]))
        for parameter, grad, part in zip(members, grads, flat.split([g.numel() for g in grads])):
            parameter.grad = part.view_as(grad).clone()


# --- tensors that are divided among the processes ------------------------------------------------


def full(part: Tensor) -> Tensor:
    """The whole of a divided tensor (torch's DTensor), on every process; any other as it is."""
    if world() == 1:
        return part
    from torch.distributed.tensor import DTensor

    return part.full_tensor() if isinstance(part, DTensor) else part


def like(value: Tensor, part: Tensor) -> Tensor:
    """What this process holds of `value`, which all have whole, when it is divided as `part` is."""
    if world() == 1 or value.ndim == 0:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(part, DTensor):
        return value
    return distribute_tensor(value.to(part.device), part.device_mesh, part.placements, src_data_rank=None)


def collected(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, divided ones whole and off the device; empty in all processes but the first."""
    made = {}
    for name, tensor in named:
        whole = full(tensor.detach())  # one after the other: no process holds all of a divided model for this
        if rank() == 0:
            made[name] = whole if whole is tensor else whole.cpu()
    return made
