"""Query and document as one text for a cross-encoder: special tokens, truncation and segments, many pairs at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..types import Texts
from .cross import Truncation


@dataclass(frozen=True)
class Joiner:
    """Joins texts without special tokens row by row: before, query, between, document, behind.

    Args:
        length: most tokens of a pair, special tokens included; at least 2 more than these.
        left: a text loses its first tokens, not its last.
        query_left: the same of queries; None: as `left`.
        segments: say where the document's segment begins (`Texts.second`).
        marked: say it for whoever cuts the pairs into chunks, whether the model has segments or not.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    behind: tuple[int, ...]
    length: int
    query_length: int | None = None
    truncate: Truncation = "longest_first"
    left: bool = False
    query_left: bool | None = None
    segments: bool = False
    marked: bool = False

    @property
    def special(self) -> int:
        """Special tokens of a pair."""
        return len(self.before) + len(self.between) + len(self.behind)

    def __call__(self, queries: Texts, docs: Texts) -> Texts:
        """The pairs of the i-th query and the i-th document."""
        assert len(queries) == len(docs), "a query for each document"
        n, m = self._kept(queries.lengths, docs.lengths)
        lengths = n + m + self.special
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        values = queries.values.new_empty(int(offsets[-1]), dtype=torch.int64)
        begin = offsets[:-1]
        for ids, starts in (
            (self.before, begin),
            (self.between, begin + len(self.before) + n),
            (self.behind, offsets[1:] - len(self.behind)),
        ):
            for place, token in enumerate(ids):
                values[starts + place] = token
        second = len(self.before) + n + len(self.between)
        query_left = self.left if self.query_left is None else self.query_left
        for texts, kept, starts, left in (
            (queries, n, begin + len(self.before), query_left),
            (docs, m, begin + second, self.left),
        ):
            first = texts.offsets[:-1] + (texts.lengths - kept if left else 0)
            values[_spans(starts, kept)] = texts.values[_spans(first, kept)].to(torch.int64)
        return Texts(values, offsets, second=second if self.segments or self.marked else None)

    def _kept(
        self, n: Int[Tensor, " rows"], m: Int[Tensor, " rows"]
    ) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
        """How many tokens of each query and of each document stay.

        ``longest_first`` follows the tokenizers library to the token: the longer text is cut down to the other's
        length, then both are halves of the room, the odd token going to the one that was longer (at a tie the second).
        """
        if self.query_length is not None:
            n = n.clamp(max=self.query_length)
        room = self.length - self.special
        if self.truncate == "doc_only":  # a query that would leave no room is cut too: one token of the document stays
            n = torch.minimum(n, room - m.clamp(max=1))
            return n, torch.minimum(m, room - n)
        short, half = torch.minimum(n, m), room // 2
        long = torch.where(short <= half, room - short, room - half)
        short = short.clamp(max=half)
        fits = n + m <= room
        first, second = torch.where(n > m, long, short), torch.where(n > m, short, long)
        return torch.where(fits, n, first), torch.where(fits, m, second)


def _spans(starts: Int[Tensor, " rows"], lengths: Int[Tensor, " rows"]) -> Int[Tensor, " tokens"]:
    """The places of stretches of given begin and length, one after the other."""
    ends = lengths.cumsum(0)
    shift = torch.repeat_interleave(starts - ends + lengths, lengths)
    return shift + torch.arange(len(shift), device=shift.device)
