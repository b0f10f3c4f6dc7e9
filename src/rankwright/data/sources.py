"""Sources of supervision: each gives (query, document, target) rows; merged by query, later sources win."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from ..errors import RecipeError
from ..types import Candidates, Qrels, picked

if TYPE_CHECKING:
    from .dataset import Dataset
    from .policy import Reading


class Source(ABC):
    """One place that relevance supervision comes from; a recipe names it, `table` reads it."""

    dataset: str

    @abstractmethod
    def table(self, dataset: Dataset, *, reading: Reading | None = None) -> Qrels:
        """Its rows over the ids of the opened data set; values are targets, higher is better.

        Raises:
            DataError: a problem of policy.py.
        """


@dataclass(frozen=True)
class Judged(Source):
    """Graded judgements: a split of a data set, or any qrels file over its ids.

    Mined negatives come in as ``Judged(dataset, qrels="mined.tsv", grade=0)`` before the judgements themselves,
    so that a mined document which turns out to be judged keeps its judgement.

    Args:
        dataset: folder or hub id.
        split: whose judgements; not looked at when `qrels` is given.
        qrels: a qrels file instead of a split.
        min_grade, max_grade: only judgements within these, both included.
        grade: the target of all that remain, instead of their own grade.
    """

    dataset: str
    split: str = "train"
    qrels: str | None = None
    min_grade: float | None = None
    max_grade: float | None = None
    grade: float | None = None

    def __post_init__(self) -> None:
        for name in ("dataset", "split"):
            if not getattr(self, name):
                raise RecipeError(f"{name} is empty", where=f"Judged.{name}", fix=f"name a {name}")
        for name in ("min_grade", "max_grade", "grade"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise RecipeError(
                    f"{name} is {value}", where=f"Judged.{name}", fix="give a finite number or leave it out"
                )
        if self.min_grade is not None and self.max_grade is not None and self.min_grade > self.max_grade:
            raise RecipeError(
                f"min_grade {self.min_grade} is above max_grade {self.max_grade}", where="Judged",
                fix="no grade lies within: exchange them",
            )  # fmt: skip

    def table(self, dataset: Dataset, *, reading: Reading | None = None) -> Qrels:
        if self.qrels is None:
            table = dataset.qrels(self.split, reading=reading)
        else:
            table = dataset.read_qrels(self.qrels, reading=reading)
        keep = np.ones(len(table), bool)
        if self.min_grade is not None:
            keep &= table.values >= self.min_grade
        if self.max_grade is not None:
            keep &= table.values <= self.max_grade
        table = _rows_where(table, keep)
        if self.grade is None:
            return table
        values = np.full(len(table), float(self.grade))
        return Qrels(table.queries, table.docs, table.offsets, table.columns, values)


def _rows_where(table: Qrels, keep: np.ndarray) -> Qrels:
    group = np.repeat(np.arange(len(table.queries)), np.diff(table.offsets))[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(table.queries)))]).astype(np.int64)
    return Qrels(table.queries, table.docs, offsets, table.columns[keep], table.values[keep])


def dataset_of(sources: Sequence[Source]) -> str:
    """The one data set that all sources of a stage are over.

    Raises:
        RecipeError: no source, or two data sets.
    """
    names = list(dict.fromkeys(source.dataset for source in sources))
    if not names:
        raise RecipeError("no source", where="data", fix="e.g. data: [Judged: {dataset: my_folder}]")
    if len(names) > 1:
        raise RecipeError(
            f"the sources of one stage are over {len(names)} data sets: {', '.join(names)}", where="data",
            fix="give each data set a stage of its own, or put their corpora, queries and qrels into one folder",
        )  # fmt: skip
    return names[0]


@dataclass(frozen=True)
class Supervision:
    """The merged targets of all queries that have something to learn from; immutable, so threads may share it.

    Queries and documents are sorted by id: the order of lines in a file changes nothing downstream.

    Attributes:
        table: query x document -> target.
        dropped: queries left out because no document of theirs has a target above 0.
    """

    table: Qrels
    dropped: int

    @classmethod
    def open(cls, dataset: Dataset, sources: Sequence[Source], *, reading: Reading | None = None) -> Supervision:
        """Read and merge the sources; judged documents that the corpus lacks are not trained on.

        Raises:
            RecipeError: nothing to learn from remains.
            DataError: a problem of policy.py.
        """
        tables = []
        for source in sources:
            table = source.table(dataset, reading=reading)
            there = dataset.corpus.rows(table.docs) >= 0
            tables.append(_rows_where(table, there[table.columns]))
        supervision = cls.merge(tables)
        if not len(supervision.queries):
            raise RecipeError(
                f"no query has a document with a target above 0 ({supervision.dropped} queries have none)",
                where="data", fix="check split, min_grade and grade: a grade of 0 means not relevant",
            )  # fmt: skip
        return supervision

    @classmethod
    def merge(cls, tables: Sequence[Qrels]) -> Supervision:
        """One table of several: for the same query and document the last table's target counts."""
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
        pairs = np.concatenate(q) * max(len(docs), 1) + np.concatenate(d)
        order = np.argsort(pairs, kind="stable")
        last = np.append(np.diff(pairs[order]) != 0, True)[: len(order)]
        pairs, values = pairs[order][last], np.concatenate(v)[order][last]
        rows, cols = pairs // max(len(docs), 1), pairs % max(len(docs), 1)
        useful = np.bincount(rows[values > 0], minlength=len(queries)) > 0
        kept = useful[rows]
        used_docs, cols = np.unique(cols[kept], return_inverse=True)
        sizes = np.bincount(rows[kept], minlength=len(queries))[useful]
        merged = Qrels(
            tuple(picked(queries, np.flatnonzero(useful))),
            tuple(picked(docs, used_docs)),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype(np.int64),
            cols.astype(np.int32),
            values[kept],
        )
        return cls(merged, int(np.sum(~useful)))

    def __len__(self) -> int:
        """How many queries."""
        return len(self.table.queries)

    @property
    def queries(self) -> Sequence[str]:
        return self.table.queries

    @property
    def docs(self) -> Sequence[str]:
        """Every document that some query knows; `columns` index these."""
        return self.table.docs

    def columns(self, query_row: int) -> np.ndarray:
        """The documents of one query as indices into `docs`, ascending (int32 [n])."""
        return self.table.columns[self.table.offsets[query_row] : self.table.offsets[query_row + 1]]

    def candidates(self, query_row: int) -> Candidates:
        """All that is known about one query, by id."""
        table, span = self.table, slice(self.table.offsets[query_row], self.table.offsets[query_row + 1])
        return Candidates(
            table.queries[query_row], picked(table.docs, table.columns[span]), table.values[span].tolist()
        )

    def pairs(self, query_rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every known target among some queries and some documents (either may hold repeats).

        Returns:
            (position in `query_rows` int64 [k], position in `columns` int64 [k], target float64 [k])
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
        return np.repeat(of_query, times), positions, np.repeat(self.table.values[source], times)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all queries, documents and targets."""
        digest = xxhash.xxh3_128()
        for names in (self.table.queries, self.table.docs):
            encoded = [name.encode("utf-8", "surrogatepass") for name in names]
            digest.update(np.array([len(encoded), *map(len, encoded)], "<i8").tobytes())
            digest.update(b"".join(encoded))
        for array, dtype in ((self.table.offsets, "<i8"), (self.table.columns, "<i4"), (self.table.values, "<f8")):
            digest.update(np.ascontiguousarray(array, dtype).tobytes())
        return digest.hexdigest()
