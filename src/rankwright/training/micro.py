"""Micro-batches: the texts of a batch cut by length within a token budget, and their representations put together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int

from ..types import Reps, Side, Tensor, Texts

_CALL = 64  # tokens: what one more call of the model costs, about


@dataclass(frozen=True)
class Micro:
    """Rows of one side that go through the model together; `cost` in tokens, padding included where there is any."""

    side: Side
    rows: Int[Tensor, " rows"]
    cost: int


def micro_batches(texts: Texts, side: Side, *, budget: int, packed: bool) -> list[Micro]:
    """Rows sorted by length, cut within the budget; at least one row each.

    A packed micro-batch costs its tokens, so each is filled. A padded one costs rows x longest: there the cuts with
    the smallest sum are chosen, for filling them would pad a small batch of uneven texts to twice its size.
    """
    lengths = texts.lengths.cpu().numpy()
    order = np.argsort(-lengths, kind="stable")
    lengths = lengths[order]
    starts = (_filled if packed else _cheapest)(lengths, budget)
    cuts = []
    for begin, end in pairwise([*starts, len(order)]):
        cost = lengths[begin:end].sum() if packed else lengths[begin] * (end - begin)
        cuts.append(Micro(side, torch.from_numpy(order[begin:end].copy()), int(cost)))
    return cuts


def _filled(lengths: np.ndarray, budget: int) -> list[int]:
    """Where each cut begins when each takes as many tokens as fit."""
    ends, starts, begin = np.cumsum(lengths), [], 0
    while begin < len(lengths):
        starts.append(begin)
        before = ends[begin - 1] if begin else 0
        begin = max(begin + 1, int(np.searchsorted(ends, before + budget, side="right")))
    return starts


def _cheapest(lengths: np.ndarray, budget: int) -> list[int]:
    """Where each cut begins when the padded sizes, and a little for each call, sum to the least."""
    best = np.concatenate([[0.0], np.full(len(lengths), np.inf)])
    origin = np.zeros(len(lengths) + 1, np.int64)
    for end in range(1, len(lengths) + 1):
        first = max(0, end - max(1, budget // max(1, int(lengths[end - 1]))))
        begin = np.arange(first, end)
        size = lengths[first:end] * (end - begin)
        cost = np.where((size <= budget) | (begin == end - 1), best[first:end] + size + _CALL, np.inf)
        at = int(cost.argmin())
        best[end], origin[end] = cost[at], first + at
    starts, end = [], len(lengths)
    while end:
        end = int(origin[end])
        starts.append(end)
    return starts[::-1]


class Assembly:
    """Micro-batches' representations in one leaf tensor in the batch's own order, at least float32.

    Each is copied as it comes: small tensors kept between large ones that are freed would leave the heap full of holes,
    and a process four times the size of what it holds.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._whole: Reps | None = None

    def add(self, micro: Micro, reps: Reps) -> None:
        """Copy the rows of one micro-batch; rows behind them are a dummy's."""
        values, n = reps.values.detach(), len(micro.rows)
        whole = self._with_room(values)
        at, t = micro.rows.to(values.device), values.shape[1]
        whole.values[at, :t] = values[:n].to(whole.values.dtype)
        whole.mask[at, :t] = reps.mask[:n]

    def _with_room(self, values: Tensor) -> Reps:
        """What is gathered, as wide as these values at least."""
        old, t = self._whole, values.shape[1]
        if old is None or old.values.shape[1] < t:
            wide = torch.float64 if values.dtype == torch.float64 else torch.float32
            self._whole = Reps(
                torch.zeros(self._rows, t, values.shape[2], dtype=wide, device=values.device),
                torch.zeros(self._rows, t, dtype=torch.bool, device=values.device),
            )
            if old is not None:
                self._whole.values[:, : old.values.shape[1]] = old.values
                self._whole.mask[:, : old.mask.shape[1]] = old.mask
        assert self._whole is not None
        return self._whole

    @property
    def empty(self) -> bool:
        return self._whole is None

    def leaf(self) -> Reps:
        """All of it; only when something was added, were it no row."""
        assert self._whole is not None, "nothing was added"
        return Reps(self._whole.values.requires_grad_(), self._whole.mask)
