"""Texts as overlapping windows of tokens, each with the special tokens and prompt of the whole, and their scores."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..types import Texts
from .long import Chunks

_STEP = 0x1E3779B97F4A7C15  # apart in all bits: windows of one text have dropout masks of their own


def windows(
    texts: Texts, chunks: Chunks, *, prefix: int | Int[Tensor, " rows"], suffix: int
) -> tuple[Texts, Int[Tensor, " rows"]]:
    """The windows of all texts, those of a text one behind the other, and how many each text has.

    A text that fits is its only window, under its own key. Of a longer one each window begins with the text's first
    `prefix` tokens and ends with its last `suffix`; half of what is between them at least is not in the window before.
    """
    before = torch.as_tensor(prefix, device=texts.offsets.device).expand(len(texts)).clamp(max=chunks.length // 2)
    body = (texts.lengths - before - suffix).clamp(min=0)
    room = chunks.length - before - suffix
    step = torch.maximum(room - chunks.overlap, (room + 1) // 2)  # a long prefix must not make thousands of windows
    fits = texts.lengths <= chunks.length
    counts = torch.where(fits, 1, 1 + ((body - room).clamp(min=0) + step - 1) // step)
    row = torch.repeat_interleave(counts)
    number = _within(counts)
    start = number * step[row]
    held = torch.where(fits[row], body[row], torch.minimum(room[row], body[row] - start))
    lengths = torch.where(fits[row], texts.lengths[row], before[row] + held + suffix)
    of, place = torch.repeat_interleave(lengths), _within(lengths)
    first, last = before[row][of], (before[row] + held)[of]
    source = torch.where(place < first, place, place + start[of])
    source = torch.where(place >= last, place - last + (before + body)[row][of], source)
    source = torch.where(fits[row][of], place, source) + texts.offsets[:-1][row][of]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    keys = None if texts.keys is None else texts.keys[row] ^ (number * _STEP)
    second = None if texts.second is None else texts.second[row]
    return Texts(texts.values[source], offsets, keys, second), counts


def score_chunks(
    values: Float[Tensor, " windows"], counts: Int[Tensor, " rows"], chunks: Chunks
) -> Float[Tensor, " rows"]:
    """The score of each text from those of its windows."""
    wide = values.new_full((len(counts), int(counts.max())), -torch.inf)
    there = torch.arange(wide.shape[1], device=counts.device) < counts[:, None]
    wide = wide.masked_scatter(there, values)
    if chunks.score == "mean":
        return wide.masked_fill(~there, 0).sum(1) / counts
    return best_mean(wide, chunks.best)


def best_mean(values: Float[Tensor, "... n"], best: int) -> Float[Tensor, "..."]:
    """The mean of the `best` largest, of fewer where the others are minus infinity."""
    if best == 1:
        return values.amax(-1)
    top = values.topk(min(best, values.shape[-1]), dim=-1).values
    there = top > -torch.inf
    mean = top.masked_fill(~there, 0).sum(-1) / there.sum(-1).clamp(min=1)
    return mean.masked_fill(~there.any(-1), -torch.inf)


def _within(lengths: Int[Tensor, " n"]) -> Int[Tensor, " total"]:
    """0 to length - 1 for each."""
    ends = lengths.cumsum(0)
    return torch.arange(int(lengths.sum()), device=lengths.device) - torch.repeat_interleave(ends - lengths, lengths)
