"""Hard negatives from a run: what ranks high and is not known to be relevant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .. import randomness
from ..errors import NonFiniteError, RecipeError, UsageError
from ..types import Qrels, Run


@dataclass(frozen=True)
class Mine:
    """Which documents of a ranking become a query's negatives.

    Margins guard against false negatives: with s the lowest score among the query's known relevant documents, those
    that score above ``s - margin`` or above ``s - relative_margin * |s|`` are dropped (the latter is NV-Retriever's
    TopK-PercPos, arXiv:2407.15831, for positive scores).

    Args:
        ranks: first and last rank looked at, from 1, in the ranking as given.
        per_query: negatives per query, at most.
        margin: in units of the score; None for no such guard.
        relative_margin: as a share of s, e.g. 0.05; None for no such guard.
        pick: ``top``: the best ranked; ``random``: any of those left, by `seed`.
        judged: whether documents judged not relevant (grade <= 0) may be picked (``keep``) or not (``drop``).
        drop_self: never pick the document that bears the query's own id.

    Raises:
        RecipeError: a value out of range.
    """

    ranks: tuple[int, int] = (1, 100)
    per_query: int = 8
    margin: float | None = None
    relative_margin: float | None = None
    pick: Literal["top", "random"] = "top"
    seed: int = 0
    judged: Literal["keep", "drop"] = "keep"
    drop_self: bool = False

    def __post_init__(self) -> None:
        if len(self.ranks) != 2 or not 1 <= self.ranks[0] <= self.ranks[1]:
            raise RecipeError(f"ranks must be first and last rank, got {self.ranks}", fix="e.g. ranks: [1, 100]")
        if self.per_query < 1:
            raise RecipeError(f"per_query must be at least 1, got {self.per_query}")
        for name, value in (("margin", self.margin), ("relative_margin", self.relative_margin)):
            if value is not None and not math.isfinite(value):
                raise RecipeError(f"{name} must be a finite number, got {value}")
        if self.pick not in ("top", "random"):
            raise RecipeError(f"pick is top or random, got {self.pick!r}")
        if self.judged not in ("keep", "drop"):
            raise RecipeError(f"judged is keep or drop, got {self.judged!r}")

    @property
    def needs_positive_scores(self) -> bool:
        return self.margin is not None or self.relative_margin is not None


@dataclass(frozen=True)
class MineReport:
    """What mining looked at, dropped and found. A document dropped for several reasons counts under the first."""

    queries: int  # of the run
    candidates: int  # documents within the ranks looked at, over the queries that have a known relevant document
    mined: int
    short: int  # queries that found fewer than `per_query`
    without_positive: int  # queries of the run left out: no known relevant document, or (margins) none with a score
    not_in_run: int  # queries with a known relevant document that the run does not name
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count) or "none"
        lines = [
            f"{self.mined:,} negatives for {self.queries - self.without_positive:,} queries",
            f"dropped of {self.candidates:,} candidates: {reasons}",
        ]
        counts = {
            "queries found too few": self.short,
            "queries of the run have no known relevant document": self.without_positive,
            "queries with a known relevant document are missing from the run": self.not_in_run,
        }
        return "\n".join(lines + [f"{count:,} {what}" for what, count in counts.items() if count])


def mine(run: Run, known: Qrels, spec: Mine, *, positives: Run | None = None) -> tuple[Qrels, MineReport]:
    """Negatives (grade 0) for every query of `run` that has a known relevant document (grade > 0) in `known`.

    Known relevant documents never become negatives; they are told by id, not by text.

    Args:
        positives: scores of the known relevant documents, needed for margins: ``index.score(queries, query_ids,
            pairs=known)``. They come from the index because a relevant document may rank below the run's depth.

    Raises:
        UsageError: margins without `positives`. NonFiniteError: a score is NaN or infinite.
    """
    if spec.needs_positive_scores and positives is None:
        raise UsageError(
            "margins need the scores of the known relevant documents",
            fix="pass positives=index.score(queries, query_ids, pairs=known), or leave the margins out",
        )
    _require_finite(run)
    run = run.ranked(spec.ranks[1])
    group = np.repeat(np.arange(len(run.queries)), np.diff(run.offsets))
    rank = np.arange(len(run)) - run.offsets[:-1][group] + 1
    relevant, irrelevant = _pairs(known, known.grades > 0, run), _pairs(known, known.grades <= 0, run)
    usable = _has_relevant(known, run)
    ceiling = np.full(len(run.queries), np.inf)
    if positives is not None and spec.needs_positive_scores:
        ceiling = _ceiling(run, known, spec, positives)
        usable &= ~np.isnan(ceiling)
    pair = group * max(1, len(run.docs)) + run.columns
    left = usable[group] & (rank >= spec.ranks[0])
    candidates = int(left.sum())
    reasons = {"known relevant": np.isin(pair, relevant)}
    if spec.drop_self:
        own = run.rows()
        reasons["the query itself"] = np.array([own.get(doc, -1) for doc in run.docs], np.int64)[run.columns] == group
    if spec.judged == "drop":
        reasons["judged not relevant"] = np.isin(pair, irrelevant)
    if spec.needs_positive_scores:
        reasons["too close to a relevant one"] = run.scores > ceiling[group]
    dropped = {}
    for reason, applies in reasons.items():
        dropped[reason] = int((left & applies).sum())
        left &= ~applies
    places = _pick(np.flatnonzero(left), group, run.queries, spec)
    sizes = np.bincount(group[places], minlength=len(run.queries))
    report = MineReport(
        queries=len(run.queries),
        candidates=candidates,
        mined=len(places),
        short=int((sizes[usable] < spec.per_query).sum()),
        without_positive=int((~usable).sum()),
        not_in_run=len({q for q, _, grades in known if (grades > 0).any()} - set(run.queries)),
        dropped=dropped,
    )
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Qrels(run.queries, run.docs, offsets, run.columns[places], np.zeros(len(places))), report


def _require_finite(run: Run) -> None:
    bad = np.flatnonzero(~np.isfinite(run.scores))
    if len(bad):
        query = run.queries[int(np.searchsorted(run.offsets, bad[0], side="right")) - 1]
        doc = run.docs[int(run.columns[bad[0]])]
        raise NonFiniteError(f"the score of query {query!r} and document {doc!r} is {run.scores[bad[0]]}")


def _pairs(table: Qrels | Run, kept: np.ndarray, run: Run) -> np.ndarray:
    """The kept pairs of `table` that the run's ids can express, as query row x documents + document column."""
    query_row, doc_column = run.rows(), {doc: column for column, doc in enumerate(run.docs)}
    query = np.array([query_row.get(name, -1) for name in table.queries], np.int64)
    doc = np.array([doc_column.get(name, -1) for name in table.docs], np.int64)
    group = np.repeat(np.arange(len(table.queries)), np.diff(table.offsets))[kept]
    query, doc = query[group], doc[table.columns[kept]]
    both = (query >= 0) & (doc >= 0)
    return query[both] * max(1, len(run.docs)) + doc[both]


def _has_relevant(known: Qrels, run: Run) -> np.ndarray:
    named = {query for query, _, grades in known if (grades > 0).any()}
    return np.array([query in named for query in run.queries], bool)


def _ceiling(run: Run, known: Qrels, spec: Mine, positives: Run) -> np.ndarray:
    """float64 [queries]: the highest score a negative may have; NaN where no relevant document has a score."""
    _require_finite(positives)
    scored = positives.to_dict()
    ceiling = np.full(len(run.queries), np.nan)
    rows = run.rows()
    for query, docs, grades in known:
        own = scored.get(query, {})
        found = [own[doc] for doc, grade in zip(docs, grades) if grade > 0 and doc in own]
        if query in rows and found:
            lowest = min(found)
            limits = [np.inf if spec.margin is None else lowest - spec.margin]
            if spec.relative_margin is not None:
                limits.append(lowest - spec.relative_margin * abs(lowest))
            ceiling[rows[query]] = min(limits)
    return ceiling


def _pick(places: np.ndarray, group: np.ndarray, queries: Sequence[str], spec: Mine) -> np.ndarray:
    """At most `per_query` of the places of each query, in rank order."""
    sizes = np.bincount(group[places], minlength=len(queries))
    starts = np.cumsum(sizes) - sizes
    if spec.pick == "top":
        return places[np.arange(len(places)) - starts[group[places]] < spec.per_query]
    kept = np.ones(len(places), bool)
    for row in np.flatnonzero(sizes > spec.per_query):
        draw = randomness.generator(spec.seed, "mine", queries[int(row)]).permutation(sizes[row])
        kept[starts[row] + draw[spec.per_query :]] = False
    return places[kept]
