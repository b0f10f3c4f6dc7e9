"""Memory budgets of a step: given, or chosen from what one micro-batch was seen to take and what is free."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import ResourceError, UsageError
from ..types import Batch, Texts

_SHARE = {"cpu": 0.7, "cuda": 0.9}  # of what is free; the rest is for what this file does not foresee
_MICRO_TOKENS = {"cpu": 4096, "cuda": 32768}  # more does not make a step faster
_PROBE_TOKENS = {"cpu": 2048, "cuda": 16384}
_STATE = 4  # weights are there already; gradient, two moments and one temporary copy of the gradient
_GIB = 1 << 30


@dataclass(frozen=True)
class Memory:
    """Budgets that bound memory and change neither loss nor gradient.

    Args:
        tokens: padded tokens of one micro-batch.
        graph_tokens: padded tokens whose graphs are kept rather than computed twice.
        rows: queries compared with all documents at a time; None: as many as make `scores`.
        scores: (query, document) pairs scored at a time.
    """

    tokens: int = 4096
    graph_tokens: int = 16384
    rows: int | None = None
    scores: int = 4 << 20

    def halved(self) -> Memory:
        rows = None if self.rows is None else max(1, self.rows // 2)
        return Memory(tokens=self.tokens // 2, graph_tokens=0, rows=rows, scores=self.scores // 2)


@dataclass(frozen=True)
class Plan:
    """Budgets, and the peak they were chosen for.

    Args:
        bytes_per_token: that a kept graph holds.
        predicted: peak bytes of this process (on CUDA: of the device's allocations) in a step like the first.
        limit: bytes it was to stay under.
    """

    memory: Memory
    bytes_per_token: float
    predicted: int
    limit: int

    def __str__(self) -> str:
        return (
            f"memory: a kept graph takes {self.bytes_per_token / 1024:.0f} KiB a token; micro_batch_tokens "
            f"{self.memory.tokens:,}, graph_tokens {self.memory.graph_tokens:,}; predicted peak "
            f"{self.predicted / _GIB:.2f} GiB of {self.limit / _GIB:.2f} GiB"
        )


def plan_memory(
    ranker: torch.nn.Module, batch: Batch, represent: Callable[[Texts], Any], *, device: str,
    limit: float | Literal["auto"],
) -> Plan:  # fmt: skip
    """Measure one micro-batch of the first batch's longest documents and choose both budgets.

    Args:
        represent: one forward pass, with graph, over some of the batch's documents; returns what holds the graph.
        limit: GiB that the process may take, or "auto": a share of what is free now.

    Raises:
        ResourceError: not even a micro-batch of one text fits.
        UsageError: a machine whose memory cannot be read.
    """
    kind = torch.device(device).type
    kind = kind if kind in _SHARE else "cpu"
    per_token = _measure(batch, represent, _PROBE_TOKENS[kind], device)
    trained = sum(p.numel() * p.element_size() for p in ranker.parameters() if p.requires_grad)
    now = used(device)
    most = int(now + _SHARE[kind] * _free(device)) if limit == "auto" else int(limit * _GIB)
    fixed = now + _STATE * trained
    left = (most - fixed) / max(per_token, 1.0)  # in tokens
    longest = int(batch.docs.lengths.max()) if len(batch.docs) else 0
    # a micro-batch that is computed again holds its graph and, in the backward pass, about as much again
    tokens = int(min(max(_MICRO_TOKENS[kind], longest), left / 2))
    if tokens < longest:
        raise ResourceError(
            f"{most / _GIB:.1f} GiB do not hold a text of {longest} tokens "
            f"({per_token * longest / _GIB:.2f} GiB) beside the model's {fixed / _GIB:.1f} GiB",
            fix="shorten the texts, freeze parts of the model, or set gradient_checkpointing: true",
        )
    memory = Memory(tokens=tokens, graph_tokens=max(0, int(left - 2 * tokens)))
    size = len(batch.docs.values) + len(batch.queries.values)
    predicted = fixed + per_token * (min(size, memory.graph_tokens) + min(size, tokens))
    return Plan(memory, per_token, int(predicted), most)


def _measure(batch: Batch, represent: Callable[[Texts], Any], tokens: int, device: str) -> float:
    """Bytes a token that a graph over the longest documents holds, at most `tokens` of them."""
    if not len(batch.docs):  # a process may have nothing to do; it takes part in what the others find
        return 0.0
    order = batch.docs.lengths.argsort(descending=True)
    within = batch.docs.lengths[order].cumsum(0) <= tokens
    rows = order[: max(1, int(within.sum()))]
    texts = batch.docs.take(rows)
    represent(batch.docs.take(order[-1:]))  # libraries allocate their work space once; a short text leaves no hole
    before = used(device)
    held = represent(texts)
    taken = used(device) - before
    del held
    return max(0.0, taken / len(texts.values))


def used(device: str) -> int:
    """Bytes that this process holds now: resident memory, or the device's allocations.

    Raises:
        UsageError: neither Linux nor CUDA.
    """
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    if not statm.exists():
        raise UsageError(
            "memory: auto cannot read this machine's memory", fix="give micro_batch_tokens and graph_tokens"
        )
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(device: str) -> int:
    """The most bytes this process has held so far."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _free(device: str) -> int:
    """Bytes that this process may still take: of the machine, of its container, or of the device."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    most = (group / "memory.max").read_text().strip() if (group / "memory.max").exists() else "max"
    if most.isdigit():
        free = min(free, int(most) - int((group / "memory.current").read_text()))
    return max(0, free)
