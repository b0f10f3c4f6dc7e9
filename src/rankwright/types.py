"""Everything that travels between rooms, from Candidates to Batch, Reps, Run and Qrels; no torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .names import bytewise, picked

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # shapes and dtypes are still checked in tests; torch need not be there to parse a recipe

Side = Literal["query", "doc"]
Precision = Literal["float32", "bf16", "fp16", "auto"]


class Document(NamedTuple):
    """One document of a corpus; `title` may be empty."""

    id: str
    title: str
    text: str


class Candidates(NamedTuple):
    """All that a source knows about one query: document ids and their targets (higher is better)."""

    query: str
    docs: list[str]
    targets: list[float]


class Example(NamedTuple):
    """The n documents of one query chosen for one step, in list order."""

    query: str
    docs: list[str]
    targets: list[float]


@dataclass(frozen=True)
class Texts:
    """Ragged token ids, unpadded, special tokens included: text i is ``values[offsets[i]:offsets[i + 1]]``.

    ``keys`` holds one random key per text: dropout masks are drawn from it, so a mask belongs to the text and the
    step, never to the micro-batch that happens to carry it. None means no dropout. ``second`` is for pairs that one
    model reads as one text: how many tokens stand before the second segment of each. None: there is one segment.
    """

    values: Int[Tensor, " tokens"]
    offsets: Int[Tensor, " rows1"]  # one more than there are rows
    keys: Int[Tensor, " rows"] | None = None
    second: Int[Tensor, " rows"] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[Tensor, " rows"]:
        return self.offsets[1:] - self.offsets[:-1]

    def take(self, rows: Int[Tensor, " taken"]) -> Texts:
        """The given rows, in that order (values int64)."""
        import torch

        rows = torch.as_tensor(rows, dtype=torch.int64, device=self.offsets.device)
        lengths = self.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        total = int(offsets[-1])
        shifts = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], lengths, output_size=total)
        values = self.values[shifts + torch.arange(total, device=shifts.device)]
        parts = (None if part is None else part[rows] for part in (self.keys, self.second))
        return Texts(values.to(torch.int64), offsets, *parts)

    def with_keys(self, keys: Int[Tensor, " rows"] | None) -> Texts:
        return replace(self, keys=keys)

    def to(self, device: Any) -> Texts:
        parts = (None if part is None else part.to(device) for part in (self.keys, self.second))
        return Texts(self.values.to(device), self.offsets.to(device), *parts)


@dataclass(frozen=True)
class Reps:
    """Representations: late interaction has t token vectors a text, dense has t = 1, a pair's score t = dim = 1."""

    values: Float[Tensor, "rows t dim"]
    mask: Bool[Tensor, "rows t"]


@dataclass(frozen=True)
class Batch:
    """One training batch. Texts are unique by id: a document that serves three lists is encoded once.

    Where query and document are read together (a cross-encoder), `docs` are pairs, one for each place of a list, and
    `pair_queries` says whose; the query's own texts are empty then.
    """

    queries: Texts
    docs: Texts
    lists: Int[Tensor, "q n"]  # row of `docs` for each place of each list; 0 where masked
    targets: Float[Tensor, "q n"]
    mask: Bool[Tensor, "q n"]
    known_queries: Int[Tensor, " known"]  # sparse memory by id: (query row, doc row, grade) of every pair that
    known_docs: Int[Tensor, " known"]  # is judged among this batch's queries and documents, the lists included
    known_targets: Float[Tensor, " known"]
    query_ids: tuple[str, ...]
    doc_ids: tuple[str, ...]
    pair_queries: tuple[str, ...] | None = None  # the query of each of `doc_ids`, where these are pairs
    drawn: tuple[str, ...] = ()  # ids of the documents that were drawn for all queries, each once

    @property
    def doc_names(self) -> tuple[str, ...]:
        """What tells the texts of `docs` apart, over all processes: the document's id, or the pair's."""
        if self.pair_queries is None:
            return self.doc_ids
        return tuple(f"{query}\x1f{doc}" for query, doc in zip(self.pair_queries, self.doc_ids, strict=True))


# --- rankings and judgements ------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """(query, doc, value) rows grouped by query: columnar, so that a billion rows fit.

    ``columns[offsets[i]:offsets[i+1]]`` index ``docs`` for query ``queries[i]``. Readers and searches leave `docs`
    packed (`names.Names`).
    """

    queries: Sequence[str]
    docs: Sequence[str]
    offsets: np.ndarray  # int64 [q + 1]
    columns: np.ndarray  # int32 [n]
    values: np.ndarray  # float64 [n]

    @classmethod
    def from_rows(cls, query_ids: Iterable[str], doc_ids: Iterable[str], values: Iterable[float]):
        """Group parallel rows by query (first appearance first), keeping the rows' order within a query."""
        queries: dict[str, int] = {}
        docs: dict[str, int] = {}
        q = np.fromiter((queries.setdefault(x, len(queries)) for x in query_ids), np.int64)
        d = np.fromiter((docs.setdefault(x, len(docs)) for x in doc_ids), np.int32)
        v = np.fromiter(values, np.float64)
        order = np.argsort(q, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(q, minlength=len(queries)))]).astype(np.int64)
        return cls(tuple(queries), tuple(docs), offsets, d[order], v[order])

    @classmethod
    def from_dict(cls, table: Mapping[str, Mapping[str, float]]):
        rows = [(q, d, v) for q, docs in table.items() for d, v in docs.items()]
        made = cls.from_rows(*zip(*rows)) if rows else cls.from_rows([], [], [])
        return made

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[tuple[str, list[str], np.ndarray]]:
        """(query id, doc ids, values) per query."""
        docs = tuple(self.docs) if len(self.docs) <= len(self) else self.docs  # all strings at once where most are used
        for i, query in enumerate(self.queries):
            a, b = self.offsets[i], self.offsets[i + 1]
            yield query, picked(docs, self.columns[a:b]), self.values[a:b]

    def to_dict(self) -> dict[str, dict[str, float]]:
        return {query: dict(zip(docs, values.tolist())) for query, docs, values in self}

    def rows(self) -> dict[str, int]:
        """Query id -> its row."""
        return {query: i for i, query in enumerate(self.queries)}


@dataclass(frozen=True)
class Run(_Table):
    """A ranking: values are scores, higher is better. `ranked` puts each query's documents in trec_eval's order."""

    @property
    def scores(self) -> np.ndarray:
        return self.values

    def ranked(self, depth: int | None = None) -> Run:
        """Score descending, ties by document id descending (bytewise), as trec_eval reads a run; cut at `depth`."""
        group = np.repeat(np.arange(len(self.queries)), np.diff(self.offsets))
        order = np.arange(len(self.values))
        falls = (self.values[1:] <= self.values[:-1]) | (group[1:] != group[:-1])
        if not falls.all():
            order = np.lexsort((-self.values, group))
        columns, values = self.columns[order], self.values[order]
        same = np.zeros(len(values), bool)
        same[1:] = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
        same[1:] &= group[1:] == group[:-1]
        if same.any():  # ids are compared where scores do not decide, and nowhere else
            tied = np.flatnonzero(same | np.append(same[1:], False))
            tie = np.cumsum(~same)[tied]
            order[tied] = order[tied[np.lexsort((-bytewise(self.docs, columns[tied]), tie))]]
            columns, values = self.columns[order], self.values[order]
        if depth is None:
            return Run(self.queries, self.docs, self.offsets, columns, values)
        keep = np.arange(len(order)) - self.offsets[:-1][group] < depth
        offsets = np.concatenate([[0], np.cumsum(np.minimum(np.diff(self.offsets), depth))]).astype(np.int64)
        return Run(self.queries, self.docs, offsets, columns[keep], values[keep])


@dataclass(frozen=True)
class Qrels(_Table):
    """Judgements: values are grades, higher is better; a pair that is not listed is unjudged."""

    @property
    def grades(self) -> np.ndarray:
        return self.values
