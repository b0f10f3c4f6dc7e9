"""Runs made of runs: several fused into one, their weights tuned on judgements, and self-hits removed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

from .. import signals
from ..errors import DataError, NonFiniteError, UsageError
from ..evaluation import evaluate, parse
from ..names import picked
from ..progress import progress
from ..types import Qrels, Run
from .index import places

Method = Literal["rrf", "sum", "mnz", "anz", "max", "min", "med"]
Norm = Literal["min-max", "z-score", "rank", "none"]

_SUMS = ("rrf", "sum", "mnz")  # the methods in which a run can weigh more than another
_ROWS = 1 << 14  # of all runs together that are fused at once: what fits a core's cache
_LEAST = 1e-9  # scores of a query that differ by less are equal, as in ranx
_STEPS, _MOST_RUNS = 10, 5  # weights tried are tenths; five runs have 1,001 such combinations


@dataclass(frozen=True)
class Fuse:
    """How several runs of the same queries become one.

    A run that did not retrieve a document says nothing about it: it adds nothing to a sum, and does not count in
    anz, max, min and med. A query is fused from those runs that have it.

    Args:
        method: ``rrf``: the sum of 1 / (k + rank) (Cormack et al. 2009). Of the normalised scores (Fox, Shaw 1993):
            ``sum``; ``mnz``: sum x number of runs that have the document; ``anz``: their mean; ``max``, ``min``,
            ``med`` (the median).
        norm: per query and run. ``min-max``: 0 to 1; ``z-score``: mean 0, standard deviation 1; ``rank``: 1 for the
            first of n, 1/n for the last; ``none``: the scores as they are. None: min-max. Not for rrf.
        weights: one factor per run; for rrf, sum and mnz. None: 1 each.
        k: of rrf; a larger one lets the first ranks count less.

    Raises:
        UsageError: a value out of range, or one that the method does not use.
    """

    method: Method = "rrf"
    norm: Norm | None = None
    weights: tuple[float, ...] | None = None
    k: float = 60

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UsageError(f"there is no method {self.method!r}", fix=f"choose from {', '.join(get_args(Method))}")
        if self.norm not in (None, *get_args(Norm)):
            raise UsageError(f"there is no norm {self.norm!r}", fix=f"choose from {', '.join(get_args(Norm))}")
        if self.norm is not None and self.method == "rrf":
            raise UsageError("rrf looks at ranks alone: it takes no norm", fix="leave norm out, or choose method sum")
        if not (math.isfinite(self.k) and self.k >= 0):
            raise UsageError(f"k must be a number from 0, got {self.k}")
        if self.weights is None:
            return
        if self.method not in _SUMS:
            raise UsageError(f"{self.method} takes no weights", fix=f"they are for {', '.join(_SUMS)}")
        if any(not math.isfinite(w) or w < 0 for w in self.weights) or not any(self.weights):
            raise UsageError(f"weights must be numbers from 0, and not all 0, got {self.weights}")

    def __str__(self) -> str:
        parts = [self.method, f"k {self.k:g}" if self.method == "rrf" else f"norm {self.norm or 'min-max'}"]
        if self.weights is not None:
            parts.append(f"weights {' '.join(f'{weight:g}' for weight in self.weights)}")
        return ", ".join(parts)


class Tuned(NamedTuple):
    """What `tune_fusion` chose: the best of all that it `tried`, and its mean."""

    spec: Fuse
    value: float
    tried: dict[Fuse, float]


def fuse(runs: Sequence[Run], spec: Fuse | None = None, *, depth: int | None = None) -> Run:
    """One run of two or more, in trec_eval's order, cut at `depth`; the order of the runs changes no score.

    Raises:
        UsageError: fewer than two runs, weights that do not fit them, or a depth below 1.
        DataError: a run has a query, or a document of a query, twice.
        NonFiniteError: a score is not finite.
    """
    spec = spec or Fuse()
    _check(runs, spec, depth)
    names = sorted(set().union(*(run.docs for run in runs)), reverse=True)  # so a lower row wins a tie, bytewise
    docs = dict(zip(names, range(len(names))))
    asked = dict.fromkeys(query for run in runs for query in run.queries)
    queries = dict(zip(asked, range(len(asked))))
    parts = [_Part.of(run, docs, queries, spec, weight) for run, weight in zip(runs, spec.weights or [1.0] * len(runs))]
    found = [_fused(parts, block, names, spec.method, depth) for block in _blocks(parts)]
    sizes, columns, values = (np.concatenate(column) for column in zip(*found, _NOTHING))
    return Run(tuple(queries), tuple(names), _offsets(sizes), columns.astype(np.int32), values)


def tune_fusion(runs: Sequence[Run], qrels: Qrels, spec: Fuse | None = None, *, measure: str = "nDCG@10") -> Tuned:
    """The k of rrf (10 to 100), or the weights of sum and mnz (tenths that add up to 1), that are best by `measure`.

    Of equally good ones the nearest to the usual wins: k 60, equal weights. Measure the result on other queries.

    Raises:
        UsageError: the method has nothing to tune, or there are more than five runs. Others as `fuse`, `evaluate`.
    """
    spec = spec or Fuse()
    name = str(parse(measure)[0])
    _check(runs, spec, None)
    judged = [_of_queries(run, qrels.queries) for run in runs]
    tried: dict[Fuse, float] = {}
    grid = _grid(spec, len(runs))
    with progress("tune", len(grid), "settings") as bar:
        for setting in grid:
            tried[setting] = evaluate(fuse(judged, setting), qrels, [name]).mean()[name]
            bar.advance(1)
            signals.check()
    best = max(tried, key=tried.__getitem__)  # the first of equals
    return Tuned(best, tried[best], tried)


def without_self(run: Run, *, depth: int | None = None) -> Run:
    """A run without the documents that bear their query's own id, cut at `depth`: in ArguAna and Quora the queries
    are documents, and finding itself is no merit. Search one document deeper than `depth` to have as many left.
    """
    docs = {doc: row for row, doc in enumerate(run.docs)}
    own = np.array([docs.get(query, -1) for query in run.queries], np.int64)
    group = np.repeat(np.arange(len(run.queries)), np.diff(run.offsets))
    kept = run.columns != own[group]
    sizes = np.bincount(group[kept], minlength=len(run.queries))
    left = Run(run.queries, run.docs, _offsets(sizes), run.columns[kept], run.values[kept])
    return left if depth is None else left.ranked(depth)


# --- fusing -----------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """One run as it enters the fusion: its normalised, weighted scores, and where its queries are."""

    offsets: Int[np.ndarray, " q1"]
    columns: Int[np.ndarray, " n"]  # rows of the documents of all runs
    values: Float[np.ndarray, " n"]
    at: Int[np.ndarray, " queries"]  # row in this run of each query of all runs; -1: it lacks the query

    @classmethod
    def of(cls, run: Run, docs: dict[str, int], queries: dict[str, int], spec: Fuse, weight: float) -> _Part:
        run, values = _normalised(run, spec)
        rows = np.fromiter(map(docs.__getitem__, run.docs), np.int64, len(run.docs))
        at = np.full(len(queries), -1)
        at[[queries[query] for query in run.queries]] = np.arange(len(run.queries))
        return cls(run.offsets, rows[run.columns], weight * values, at)

    def sizes(self) -> np.ndarray:
        """Documents that this run has for each query of all runs."""
        return np.where(self.at >= 0, np.append(np.diff(self.offsets), 0)[self.at], 0)


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))  # sizes, columns, values


def _check(runs: Sequence[Run], spec: Fuse, depth: int | None) -> None:
    if len(runs) < 2:
        raise UsageError(f"two runs or more are fused, got {len(runs)}")
    if spec.weights is not None and len(spec.weights) != len(runs):
        raise UsageError(f"{len(spec.weights)} weights for {len(runs)} runs", fix="give one weight per run, in order")
    if depth is not None and depth < 1:
        raise UsageError(f"depth must be at least 1, got {depth}")
    for number, run in enumerate(runs, start=1):
        if len(set(run.queries)) < len(run.queries):
            raise DataError(f"run {number} names a query twice", fix="make it with from_rows or from_dict")
        if len(bad := np.flatnonzero(~np.isfinite(run.values))):
            query = run.queries[int(np.searchsorted(run.offsets, bad[0], side="right")) - 1]
            raise NonFiniteError(f"run {number}: a score of query {query!r} is {run.values[bad[0]]}")


def _normalised(run: Run, spec: Fuse) -> tuple[Run, np.ndarray]:
    """A run, ranked where ranks count, and what each of its rows contributes."""
    if spec.method == "rrf" or spec.norm == "rank":
        run = run.ranked()
        sizes = np.diff(run.offsets)
        place = np.arange(len(run)) - np.repeat(run.offsets[:-1], sizes)
        return run, 1 / (spec.k + place + 1) if spec.method == "rrf" else 1 - place / np.repeat(sizes, sizes)
    if spec.norm == "none" or not len(run):
        return run, run.values
    sizes = np.diff(run.offsets)
    starts, sizes = run.offsets[:-1][sizes > 0], sizes[sizes > 0]
    with np.errstate(over="ignore", invalid="ignore"):
        if spec.norm == "z-score":
            zero = np.add.reduceat(run.values, starts) / sizes
            unit = np.sqrt(np.add.reduceat((run.values - np.repeat(zero, sizes)) ** 2, starts) / sizes)
        else:
            zero = np.minimum.reduceat(run.values, starts)
            unit = np.maximum.reduceat(run.values, starts) - zero
        values = (run.values - np.repeat(zero, sizes)) / np.repeat(np.maximum(unit, _LEAST), sizes)
    if not np.isfinite(values).all():
        raise NonFiniteError(f"scores up to {np.abs(run.values).max():g} are too large to be normalised")
    return run, values


def _blocks(parts: Sequence[_Part]) -> Iterator[slice]:
    """Consecutive queries with about `_ROWS` rows in all runs together."""
    last = np.cumsum(sum(part.sizes() for part in parts)) // _ROWS
    cuts = [0, *(np.flatnonzero(np.diff(last)) + 1).tolist(), len(last)]
    for start, stop in pairwise(cuts):
        yield slice(start, stop)


def _fused(
    parts: Sequence[_Part], block: slice, names: Sequence[str], method: Method, depth: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(documents of each query, their columns, their scores) of a block of queries, ranked."""
    pairs, values, whose = [], [], []
    for number, part in enumerate(parts):
        rows = part.at[block]
        place, query = _spans(part.offsets, rows[rows >= 0])
        pairs.append(np.flatnonzero(rows >= 0)[query] * len(names) + part.columns[place])
        values.append(part.values[place])
        whose.append(np.full(len(place), number))
    pair, row = np.unique(np.concatenate(pairs), return_inverse=True)
    table = np.full((len(pair), len(parts)), np.nan)
    table[row, np.concatenate(whose)] = np.concatenate(values)
    if len(row) > len(pair) and np.count_nonzero(~np.isnan(table)) < len(row):
        raise DataError(_twice(pairs, names), fix="make the runs with from_rows or read_run of clean files")
    scores = _combined(table, method)
    query, column = np.divmod(pair, max(len(names), 1))
    ranking = np.lexsort((-scores, query))  # stable: ties stay in the order of columns
    queries = block.stop - block.start
    if depth is not None:
        ranking = ranking[places(query, queries) < depth]  # `query` is sorted, before and after the ranking
    sizes = np.bincount(query[ranking], minlength=queries)
    return sizes, column[ranking], scores[ranking]


def _combined(table: Float[np.ndarray, "pairs runs"], method: Method) -> Float[np.ndarray, " pairs"]:
    """One score per document from those of the runs, NaN where a run lacks it."""
    table = np.sort(table, axis=1)  # NaN last; and a sum rounds the same whatever the order of the runs
    count = np.count_nonzero(~np.isnan(table), axis=1)
    row = np.arange(len(table))
    if method == "max":
        return table[row, count - 1]
    if method == "min":
        return table[:, 0]
    if method == "med":
        return (table[row, (count - 1) // 2] + table[row, count // 2]) / 2
    total = np.nansum(table, axis=1)
    return total * count if method == "mnz" else total / count if method == "anz" else total


def _twice(pairs: Sequence[np.ndarray], names: Sequence[str]) -> str:
    for number, pair in enumerate(pairs, start=1):
        unique, count = np.unique(pair, return_counts=True)
        if (count > 1).any():
            return f"run {number} has document {names[int(unique[count > 1][0]) % len(names)]!r} twice for a query"
    raise AssertionError("no document is there twice")


def _spans(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of all elements of some rows, one row after the other, and the number of the row of each."""
    sizes = offsets[rows + 1] - offsets[rows]
    row = np.repeat(np.arange(len(rows)), sizes)
    return np.arange(len(row)) + (offsets[rows] - np.cumsum(sizes) + sizes)[row], row


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


# --- tuning -----------------------------------------------------------------------------------------------------------


def _of_queries(run: Run, queries: Sequence[str]) -> Run:
    """The part of a run that answers these queries."""
    rows = run.rows()
    taken = np.array([rows[query] for query in queries if query in rows], np.int64)
    place, row = _spans(run.offsets, taken)
    offsets = _offsets(np.bincount(row, minlength=len(taken)))
    return Run(picked(run.queries, taken), run.docs, offsets, run.columns[place], run.values[place])


def _grid(spec: Fuse, runs: int) -> list[Fuse]:
    """What is tried, the usual first."""
    if spec.method == "rrf":
        return [replace(spec, k=k) for k in sorted(range(10, 101, 10), key=lambda k: abs(k - 60))]
    if spec.method not in _SUMS:
        raise UsageError(f"{spec.method} has nothing to tune", fix=f"tune one of {', '.join(_SUMS)}")
    if runs > _MOST_RUNS:
        raise UsageError(f"{runs} runs have too many combinations of weights", fix=f"tune {_MOST_RUNS} runs at most")
    bars = combinations(range(1, _STEPS + runs), runs - 1)  # between them: every way to share ten tenths
    shares = [[b - a - 1 for a, b in zip((0, *cut), (*cut, _STEPS + runs))] for cut in bars]
    shares.sort(key=lambda share: (sum(n * n for n in share), share))  # the most equal first
    return [replace(spec, weights=tuple(n / _STEPS for n in share)) for share in shares]
