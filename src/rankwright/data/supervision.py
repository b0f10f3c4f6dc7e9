"""The merged targets of a stage: what each query knows, and which of its documents an epoch may choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import xxhash

from ..names import Names, picked
from ..randomness import generator
from ..types import Candidates, Qrels

_AT_ONCE = 1 << 20  # rows


class Supply(NamedTuple):
    """What one source gives to the merge.

    Attributes:
        kept: the rows that may be chosen (bool [n]); None: all. The others are known, and no more.
        draw: of the kept rows, how many a query may choose from in one epoch; None: all.
        grades: what it states about relevance: above 0 relevant, else not, NaN nothing; None: the targets.
        ranked: whether its rows are what a system found.
    """

    table: Qrels
    kept: np.ndarray | None = None
    draw: int | None = None
    grades: np.ndarray | None = None
    ranked: bool = False


@dataclass(frozen=True)
class Draw:
    """Rows of which an epoch draws `size` a query: ``rows[offsets[i]:offsets[i + 1]]`` are those of query i."""

    source: int  # its number in the stage
    size: int
    offsets: np.ndarray  # int64 [queries + 1]
    rows: np.ndarray  # int64 [n], rows of the merged table, ascending within a query

    def of(self, query_row: int, query: str, seed: int, epoch: int) -> np.ndarray:
        """The rows that one epoch draws for one query: without replacement, all where there are no more."""
        rows = self.rows[self.offsets[query_row] : self.offsets[query_row + 1]]
        if len(rows) <= self.size:
            return rows
        return generator(seed, "keep", self.source, epoch, query).choice(rows, self.size, replace=False)


@dataclass(frozen=True)
class Supervision:
    """The merged targets of all queries that have something to learn from; immutable, so threads may share it.

    Queries and documents are sorted by id: the order of lines in a file changes nothing downstream, but for `first`
    of `Keep`. A pair's target is the one of the last source that names it, whether that source drew it or not.

    Attributes:
        table: query x document -> target.
        grades: per row of `table`, what the last source that knows states about relevance: a document above 0 never
            counts as a negative of the query; NaN: no source states anything (float64 [n]); None: the targets.
        dropped: queries left out because no document of theirs that may be chosen has a target above 0.
        always: the rows of `table` that may be chosen in every epoch (bool [n]); None: all.
        draws: the rows that may be chosen in the epochs that draw them.
        outside: relevant documents that no ranking names, where there are rankings: they are learned as judged.
    """

    table: Qrels
    dropped: int
    always: np.ndarray | None = None
    draws: tuple[Draw, ...] = ()
    grades: np.ndarray | None = None
    outside: int = 0

    @classmethod
    def merge(cls, tables: Sequence[Qrels]) -> Supervision:
        """One table of several: for the same query and document the last table's target counts."""
        return cls.of([Supply(table) for table in tables])

    @classmethod
    def of(cls, supplies: Sequence[Supply]) -> Supervision:
        """The merge of what sources give, the later winning."""
        made = cls.explicit(supplies)
        whole = made.always is None or bool(made.always.all())
        stated = made.table.values if made.grades is None else made.grades
        own_grades = None if np.array_equal(stated, made.table.values) else stated
        always, draws = (None, ()) if whole else (made.always, made.draws)
        return replace(made, always=always, draws=draws, grades=own_grades)

    @classmethod
    def explicit(cls, supplies: Sequence[Supply]) -> Supervision:
        """`of` with everything written out, also what could be left to None: parts of a whole have equal columns."""
        queries, docs, (q, d, v) = _stacked([supply.table for supply in supplies])
        pairs = q * max(len(docs), 1) + d
        order = np.argsort(pairs, kind="stable")
        new = np.append(True, np.diff(pairs[order]) != 0)[: len(order)]
        last = np.append(new[1:], True)[: len(order)]
        place = np.empty(len(order), np.int64)  # input row -> merged row
        place[order] = np.cumsum(new) - 1
        rows, cols = np.divmod(pairs[order][last], max(len(docs), 1))
        values = v[order][last]

        begins = np.cumsum([0, *(len(supply.table) for supply in supplies)])
        spans = [place[a:b] for a, b in pairwise(begins)]
        chosen = [span if s.kept is None else span[s.kept] for span, s in zip(spans, supplies)]
        always, possible, ungraded, found = (np.zeros(len(values), bool) for _ in range(4))
        grades = np.full(len(values), np.nan)
        for span, own, supply in zip(spans, chosen, supplies):
            possible[own] = True
            stated = supply.table.values if supply.grades is None else supply.grades
            ungraded[span] = supply.grades is not None
            grades[span[~np.isnan(stated)]] = stated[~np.isnan(stated)]
            found[span] |= supply.ranked
            if supply.draw is None:
                always[own] = True

        useful = np.bincount(rows[possible & ((values > 0) | ungraded)], minlength=len(queries)) > 0
        kept = useful[rows]
        outside = int((kept & (values > 0) & ~found).sum()) if any(supply.ranked for supply in supplies) else 0
        used_docs, cols = np.unique(cols[kept], return_inverse=True)
        merged = Qrels(
            tuple(picked(queries, np.flatnonzero(useful))),
            tuple(picked(docs, used_docs)),
            _offsets(np.bincount(rows[kept], minlength=len(queries))[useful]),
            cols.astype(np.int32),
            values[kept],
        )
        row_now, query_now = np.cumsum(kept) - 1, np.cumsum(useful) - 1
        draws = []
        for number, (own, supply) in enumerate(zip(chosen, supplies)):
            if supply.draw is not None:
                own = np.sort(own[kept[own]])
                sizes = np.bincount(query_now[rows[own]], minlength=len(merged.queries))
                draws.append(Draw(number, supply.draw, _offsets(sizes), row_now[own]))
        return cls(merged, int(np.sum(~useful)), always[kept], tuple(draws), grades[kept], outside)

    def __len__(self) -> int:
        """How many queries."""
        return len(self.table.queries)

    @property
    def remarks(self) -> list[str]:
        """What a user should know of what was left out, or learned otherwise than it may seem."""
        made = []
        if self.dropped:
            made.append(f"{self.dropped:,} queries have no relevant document and are left out")
        if self.outside:
            made.append(f"{self.outside:,} relevant documents are not in the rankings: they are learned as judged")
        return made

    @property
    def queries(self) -> Sequence[str]:
        return self.table.queries

    @property
    def docs(self) -> Sequence[str]:
        """Every document that some query knows; the columns of `table` index these."""
        return self.table.docs

    def rows(self, query_row: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
        """The rows of `table` that one query may choose from in one epoch, ascending: a pure function (int64 [n])."""
        begin, end = self.table.offsets[query_row : query_row + 2].tolist()
        if self.always is None:
            return np.arange(begin, end)
        open_ = self.always[begin:end].copy()
        for draw in self.draws:
            open_[draw.of(query_row, self.table.queries[query_row], seed, epoch) - begin] = True
        return begin + np.flatnonzero(open_)

    def candidates(self, query_row: int, rows: np.ndarray | None = None) -> Candidates:
        """Some rows of one query by id, as `rows` gives them; None: all that is known about it."""
        table = self.table
        span = slice(*table.offsets[query_row : query_row + 2].tolist()) if rows is None else rows
        return Candidates(
            table.queries[query_row], picked(table.docs, table.columns[span]), table.values[span].tolist()
        )

    def _stretches(self) -> Iterator[tuple[slice, slice]]:
        """(queries, their rows): so many at a time that what is computed about them is small."""
        offsets, begin = self.table.offsets, 0
        while begin < len(self):
            end = int(np.searchsorted(offsets, offsets[begin] + _AT_ONCE, side="right")) - 1
            end = min(max(end, begin + 1), len(self))
            yield slice(begin, end), slice(int(offsets[begin]), int(offsets[end]))
            begin = end

    @cached_property
    def unsure(self) -> np.ndarray:
        """The queries that may find themselves without any relevant document in some epoch (int64 [k])."""
        found = [np.zeros(0, np.int64)]
        for queries, rows in self._stretches():
            relevant, count = self.table.values[rows] > 0, queries.stop - queries.start
            query = np.repeat(np.arange(count), np.diff(self.table.offsets[queries.start : queries.stop + 1]))
            certain = relevant if self.always is None else relevant & self.always[rows]
            sure = np.bincount(query[certain], minlength=count) > 0
            for draw in self.draws:
                bounds = draw.offsets[queries.start : queries.stop + 1]
                own = draw.rows[bounds[0] : bounds[-1]] - rows.start
                others = np.bincount(query[own[~relevant[own]]], minlength=count)
                sure |= others < np.minimum(draw.size, np.diff(bounds))
            found.append(queries.start + np.flatnonzero(~sure))
        return np.concatenate(found)

    def having(self, targets: Sequence[float]) -> np.ndarray:
        """Which queries have a document of each of these targets that may be chosen in some epoch (bool [queries])."""
        found = np.ones(len(self), bool)
        for queries, rows in self._stretches() if targets else ():
            open_, offsets = self._open(queries, rows), self.table.offsets[queries.start : queries.stop + 1]
            query = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            for target in targets:
                there = query[open_ & (self.table.values[rows] == target)]
                found[queries] &= np.bincount(there, minlength=len(offsets) - 1) > 0
        return found

    def _open(self, queries: slice, rows: slice) -> np.ndarray:
        """Which rows of some queries may be chosen in some epoch (bool)."""
        if self.always is None:
            return np.ones(rows.stop - rows.start, bool)
        open_ = np.array(self.always[rows])
        for draw in self.draws:
            begin, end = draw.offsets[[queries.start, queries.stop]]
            open_[draw.rows[begin:end] - rows.start] = True
        return open_

    def pairs(self, query_rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every known grade among some queries and some documents (either may hold repeats).

        Returns:
            (position in `query_rows` int64 [k], position in `columns` int64 [k], grade float64 [k])
        """
        query_rows, columns = np.asarray(query_rows, np.int64), np.asarray(columns, np.int64)
        begins, sizes = self.table.offsets[query_rows], np.diff(self.table.offsets)[query_rows]
        ends = np.cumsum(sizes)
        source = np.repeat(begins - (ends - sizes), sizes) + np.arange(int(sizes.sum()))
        of_query = np.repeat(np.arange(len(query_rows)), sizes)
        order = np.argsort(columns, kind="stable")
        low = np.searchsorted(columns[order], self.table.columns[source], side="left")
        high = np.searchsorted(columns[order], self.table.columns[source], side="right")
        times = high - low
        within = np.arange(int(times.sum())) - np.repeat(np.cumsum(times) - times, times)
        positions = order[np.repeat(low, times) + within]
        grades = np.repeat((self.table.values if self.grades is None else self.grades)[source], times)
        known = ~np.isnan(grades)
        return np.repeat(of_query, times)[known], positions[known], grades[known]

    @property
    def judged(self) -> Qrels:
        """The grades that are known; a query may be without any."""
        if self.grades is None:
            return self.table
        sizes, columns, values = np.zeros(len(self), np.int64), [np.zeros(0, np.int32)], [np.zeros(0)]
        for queries, rows in self._stretches():
            known = ~np.isnan(self.grades[rows])
            begins = self.table.offsets[queries.start : queries.stop] - rows.start
            sizes[queries] = np.add.reduceat(known, begins, dtype=np.int64)
            columns.append(self.table.columns[rows][known])
            values.append(self.grades[rows][known])
        return replace(
            self.table, offsets=_offsets(sizes), columns=np.concatenate(columns), values=np.concatenate(values)
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all queries, documents and targets, and of what an epoch may choose from."""
        digest = xxhash.xxh3_128()
        for names in (self.table.queries, self.table.docs):
            text, offsets = Names.of(names).to_bytes()
            _digest(digest, np.array([len(names)]), "<i8")
            _digest(digest, np.diff(offsets), "<i8")
            _digest(digest, text, "u1")
        _digest(digest, self.table.offsets, "<i8")
        _digest(digest, self.table.columns, "<i4")
        _digest(digest, self.table.values, "<f8")
        if self.grades is not None:
            _digest(digest, self.grades, "<f8")
        if self.always is not None:
            _digest(digest, self.always, "?")
        for draw in self.draws:
            _digest(digest, np.array([draw.source, draw.size, len(draw.rows)]), "<i8")
            _digest(digest, draw.offsets, "<i8")
            _digest(digest, draw.rows, "<i8")
        return digest.hexdigest()


def _digest(digest: xxhash.xxh3_128, array: np.ndarray, dtype: str) -> None:
    """Add an array, of which no more than a stretch is copied."""
    for begin in range(0, len(array), _AT_ONCE):
        digest.update(np.ascontiguousarray(array[begin : begin + _AT_ONCE], dtype).tobytes())


def _stacked(tables: Sequence[Qrels]) -> tuple[list[str], list[str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Sorted query ids, sorted ids of the documents in use, and (query, document, value) of every row in turn."""
    queries = sorted({query for table in tables for query in table.queries})
    docs = sorted({doc for table in tables for doc in picked(table.docs, np.unique(table.columns))})
    query_rows, columns = {q: i for i, q in enumerate(queries)}, {d: i for i, d in enumerate(docs)}
    q, d, v = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for table in tables:
        own_rows = np.array([query_rows[x] for x in table.queries], np.int64)
        own_columns = np.array([columns.get(x, -1) for x in table.docs], np.int64)  # -1: in no row
        q.append(np.repeat(own_rows, np.diff(table.offsets)))
        d.append(own_columns[table.columns])
        v.append(table.values)
    return queries, docs, (np.concatenate(q), np.concatenate(d), np.concatenate(v))


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype(np.int64)
