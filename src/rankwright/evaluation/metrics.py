"""What a run is worth under judgements: trec_eval's values, vectorised over all queries at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import DataError, NonFiniteError, UsageError
from ..names import Names, bytewise, selected
from ..types import Qrels, Run
from .measures import Measure, parse

_CELLS = 1 << 22  # of run rows that are ranked at once: bounds the memory beyond the run itself
_TOP = 10  # ranks of which `Scores.unjudged` speaks


@dataclass(frozen=True, eq=False)
class Scores:
    """Every measure of every judged query, in [0, 1].

    `missing` are judged queries of which the run has no document: they count as zero in `mean`. `extra` are queries of
    the run without judgements: ignored. `without_relevant` are judged queries without a grade above zero: whatever the
    run does, they count as zero. `unjudged` is the share of the run's first ten documents a query that nobody judged.
    """

    measures: tuple[str, ...]  # canonical names
    queries: tuple[str, ...]  # in the order of the judgements
    values: Float[np.ndarray, "queries measures"]  # float64
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    without_relevant: tuple[str, ...] = ()
    unjudged: float = 0.0

    def mean(self) -> dict[str, float]:
        """Mean of each measure over all judged queries, as trec_eval -c."""
        return dict(zip(self.measures, self.values.mean(axis=0).tolist()))

    def mean_of_answered(self) -> dict[str, float]:
        """Mean over the judged queries that the run answers, as trec_eval without -c; 0 when it answers none."""
        missing = set(self.missing)
        answered = self.values[[query not in missing for query in self.queries]]
        return dict(zip(self.measures, (answered.sum(axis=0) / max(len(answered), 1)).tolist()))

    def column(self, measure: str | Measure) -> Float[np.ndarray, " queries"]:
        """The values of one measure, in the order of `queries`.

        Raises:
            UsageError: it was not measured.
        """
        name = str(parse(measure)[0])
        if name not in self.measures:
            raise UsageError(f"{name} was not measured", fix=f"choose from {', '.join(self.measures)}")
        return self.values[:, self.measures.index(name)]

    def per_query(self) -> dict[str, dict[str, float]]:
        """measure -> query -> value."""
        return {name: dict(zip(self.queries, self.values[:, i].tolist())) for i, name in enumerate(self.measures)}

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; `from_json` gives the same scores back, bit for bit."""
        return {
            "mean": self.mean(),
            "mean_of_answered": self.mean_of_answered(),
            "queries": len(self.queries),
            "missing": list(self.missing),
            "extra": list(self.extra),
            "without_relevant": list(self.without_relevant),
            "unjudged": self.unjudged,
            "per_query": self.per_query(),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Scores:
        """The scores that `to_json` wrote.

        Raises:
            DataError: the table does not have that layout.
        """
        try:
            per_query = table["per_query"]
            measures, queries = tuple(per_query), tuple(next(iter(per_query.values())))
            values = np.array([[per_query[m][q] for m in measures] for q in queries], np.float64)
            named = (tuple(table[key]) for key in ("missing", "extra", "without_relevant"))
            return cls(measures, queries, values, *named, unjudged=float(table["unjudged"]))
        except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
            raise DataError(f"not the scores of an evaluation: {error!r}", fix="evaluate the run again") from None


class _Judged(NamedTuple):
    """The judgements of the measured queries, one row each, and how many documents the run has for them."""

    queries: int
    query: Int[np.ndarray, " n"]  # row of the measured query, ascending
    grade: Float[np.ndarray, " n"]
    retrieved: Int[np.ndarray, " queries"]


class _Hits(NamedTuple):
    """The judged documents of a run; every measure is a function of these and of `_Judged`. Sorted by query, rank."""

    query: Int[np.ndarray, " h"]  # row of the measured query
    rank: Int[np.ndarray, " h"]  # from 0
    grade: Float[np.ndarray, " h"]


def evaluate(
    run: Run,
    qrels: Qrels,
    measures: Sequence[str | Measure] = ("nDCG@10", "R@100", "RR@10"),
    *,
    compat: Literal["trec10", "trec9"] = "trec10",
) -> Scores:
    """Measure a run against judgements with trec_eval's definitions, ties and averages.

    Documents are ranked by score, ties by document id descending (bytewise). A judged query that the run lacks counts
    as zero. Scores are float64, as in trec_eval 10; ``compat="trec9"`` first rounds them to float32, as trec_eval 9
    and pytrec_eval do, which can make ties.

    Raises:
        UsageError: no measure is named, an unknown one, or one that looks for answers (see `Evidence`).
        DataError: a document is ranked or judged twice for a query, a grade is not finite, nothing is judged, or the
            run answers none of the judged queries but others.
        NonFiniteError: a score is NaN and so has no rank.
    """
    parsed = parse(measures)
    if not parsed:
        raise UsageError("no measure is named", fix="e.g. nDCG@10, R@100")
    if of_answers := [measure for measure in parsed if measure.of_answers]:
        fix = f"give the answers too; by judgements alone the like of it is Success@{of_answers[0].cutoff}"
        raise UsageError(f"{of_answers[0]} looks for answers in passages, and there are judgements alone", fix=fix)
    if compat not in ("trec10", "trec9"):
        raise UsageError(f"compat must be 'trec10' or 'trec9', got {compat!r}")
    asked, answers = _filled(qrels, "judgements"), _filled(run, "run")
    if not asked:
        raise DataError("there are no judgements to measure with")
    missing = tuple(query for query in asked if query not in answers)
    extra = tuple(query for query in answers if query not in asked)
    if answers and len(missing) == len(asked):
        raise DataError(
            f"the run answers none of the {len(asked)} judged queries: it has queries like {extra[0]!r}, the "
            f"judgements like {missing[0]!r}",
            fix="take the run and the judgements of the same queries",
        )
    pairing = np.array([(i, answers.get(query, -1)) for query, i in asked.items()], np.int64)
    judged, hits = _judged(run, qrels, pairing), _hits(run, qrels, pairing, compat == "trec9")
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.stack([_MEASURES[measure.name](measure, hits, judged) for measure in parsed], axis=1)
    if not np.isfinite(values).all():
        raise DataError(f"the grades are too large: up to {qrels.grades.max():g}", fix="use small grades, e.g. 0 to 3")
    values.setflags(write=False)
    relevant = _count(judged.query[judged.grade > 0], len(asked))
    top = np.minimum(judged.retrieved, _TOP).sum()
    return Scores(
        measures=tuple(map(str, parsed)),
        queries=tuple(asked),
        values=values,
        missing=missing,
        extra=extra,
        without_relevant=tuple(query for query, n in zip(asked, relevant) if n == 0),
        unjudged=float(1 - (hits.rank < _TOP).sum() / top) if top else 0.0,
    )


# --- from tables to judged documents ----------------------------------------------------------------------------------


def _filled(table: Run | Qrels, what: str) -> dict[str, int]:
    """Query -> row, of the queries with at least one document: as a file would say it."""
    if len(set(table.queries)) != len(table.queries):
        raise DataError(f"the {what} name a query twice", fix="make them with from_rows or from_dict")
    return {query: i for query, i, n in zip(table.queries, range(len(table.queries)), np.diff(table.offsets)) if n}


def _judged(run: Run, qrels: Qrels, pairing: np.ndarray) -> _Judged:
    if not np.isfinite(qrels.grades).all():
        i = int(np.flatnonzero(~np.isfinite(qrels.grades))[0])
        query = qrels.queries[int(np.searchsorted(qrels.offsets, i, side="right")) - 1]
        doc = qrels.docs[int(qrels.columns[i])]
        raise DataError(f"the grade of document {doc!r} for query {query!r} is {qrels.grades[i]}, not a finite number")
    sizes = np.diff(qrels.offsets)[pairing[:, 0]]
    return _Judged(len(pairing), np.repeat(np.arange(len(pairing)), sizes), qrels.grades, _retrieved(run, pairing))


def _retrieved(run: Run, pairing: np.ndarray) -> np.ndarray:
    retrieved = np.zeros(len(pairing), np.int64)
    answered = pairing[:, 1] >= 0
    retrieved[answered] = np.diff(run.offsets)[pairing[answered, 1]]
    return retrieved


def _hits(run: Run, qrels: Qrels, pairing: np.ndarray, single: bool) -> _Hits:
    """Rank the documents of the paired queries (row of the judgements, row of the run or -1); keep the judged ones."""
    asked, answered = pairing.T
    known = len(qrels.docs)
    keys = np.repeat(asked, np.diff(qrels.offsets)[asked]) * known + qrels.columns  # one integer a judged pair
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        query, doc = divmod(int(keys[twice[0]]), known)
        raise DataError(
            f"document {qrels.docs[doc]!r} is judged twice for query {qrels.queries[query]!r}", fix="keep one grade"
        )
    column = _columns(run, qrels)
    parts = [_Hits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for rows, length in _blocks(_retrieved(run, pairing)):
        ranked, same = _by_score(run, answered[rows], length, single)
        judged = column[ranked]
        row, rank = np.divmod(np.flatnonzero(judged), length)
        wanted = asked[rows[row]] * known + judged[row, rank] - 1
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[place] == wanted
        row, rank, grade = row[hit], rank[hit], qrels.grades[order[place[hit]]]
        parts.append(_Hits(rows[row], _break_ties(run, ranked, same, row, rank) if same.any() else rank, grade))
    query, rank, grade = (np.concatenate(part) for part in zip(*parts))
    sort = np.lexsort((rank, query))
    return _Hits(query[sort], rank[sort], grade[sort])


def _columns(run: Run, qrels: Qrels) -> Int[np.ndarray, " docs"]:
    """One more than the judgements' column of each of the run's documents; 0 where nobody judged it for any query."""
    used = np.zeros(len(run.docs), bool)
    used[run.columns] = True  # the run's documents may be a whole corpus, of which it names a few
    wanted = np.flatnonzero(used)
    names = run.docs if len(wanted) == len(used) else selected(run.docs, wanted)
    columns = np.zeros(len(run.docs), np.int64)
    columns[wanted] = Names.of(qrels.docs).find(names) + 1
    return columns


def _blocks(sizes: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """(rows, their common size): queries with equally many documents make a matrix without padding."""
    by_size = np.argsort(sizes, kind="stable")
    starts = np.flatnonzero(np.diff(sizes[by_size], prepend=0))  # size 0, not answered, starts no block
    for start, end in zip(starts, [*starts[1:], len(by_size)]):
        length = int(sizes[by_size[start]])
        step = max(1, _CELLS // length)
        for first in range(start, end, step):
            yield by_size[first : min(first + step, end)], length


def _by_score(
    run: Run, queries: np.ndarray, length: int, single: bool
) -> tuple[Int[np.ndarray, "rows length"], Bool[np.ndarray, "rows length"]]:
    """The document columns of the given queries, best score first, and which score as the one before."""
    where = run.offsets[queries][:, None] + np.arange(length)
    columns, scores = run.columns[where], run.scores[where]
    if single:
        with np.errstate(over="ignore"):
            scores = scores.astype(np.float32)
    _check(run, queries, columns, scores)
    if not (scores[:, 1:] <= scores[:, :-1]).all():
        order = np.argsort(-scores, axis=1)
        columns, scores = (np.take_along_axis(part, order, axis=1) for part in (columns, scores))
    same = np.zeros(scores.shape, bool)
    np.equal(scores[:, 1:], scores[:, :-1], out=same[:, 1:])
    return columns, same


def _check(run: Run, queries: np.ndarray, columns: np.ndarray, scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        row, place = np.argwhere(np.isnan(scores))[0]
        raise NonFiniteError(
            f"the score of document {run.docs[int(columns[row, place])]!r} for query "
            f"{run.queries[int(queries[row])]!r} is NaN and has no rank",
            fix="look for NaN in what made the run: the model's vectors, or the file",
        )
    alike = np.sort(columns, axis=1)
    twice = np.argwhere(alike[:, 1:] == alike[:, :-1])
    if len(twice):
        row, place = twice[0]
        raise DataError(
            f"the run lists document {run.docs[int(alike[row, place])]!r} twice for query "
            f"{run.queries[int(queries[row])]!r}",
            fix="keep each document once, e.g. with its highest score",
        )


def _break_ties(
    run: Run, columns: np.ndarray, same: np.ndarray, row: np.ndarray, rank: np.ndarray
) -> Int[np.ndarray, " h"]:
    """The ranks of the hits (row, rank) once documents of equal score are ordered by id, descending.

    Only ties with a hit are ordered: no measure sees the others.
    """
    group = np.cumsum(~same.ravel()) - 1  # of equal scores in one row
    hits = row * columns.shape[1] + rank
    matters = np.zeros(int(group[-1]) + 1, bool)
    matters[group[hits]] = True
    tied = np.flatnonzero((matters & (np.bincount(group) > 1))[group])
    by_id = bytewise(run.docs, columns.ravel()[tied])
    moved = np.arange(columns.size)
    moved[tied[np.lexsort((-by_id, group[tied]))]] = tied
    return moved[hits] - row * columns.shape[1]


# --- the measures: one function, one row of the table -----------------------------------------------------------------


def _count(query: np.ndarray, queries: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum per query, added up in the given order as trec_eval does."""
    return np.bincount(query, weights, minlength=queries)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _relevant(measure: Measure, hits: _Hits) -> _Hits:
    keep = hits.grade >= measure.rel
    if measure.cutoff is not None:
        keep &= hits.rank < measure.cutoff
    return _Hits(hits.query[keep], hits.rank[keep], hits.grade[keep])


def _number_relevant(measure: Measure, judged: _Judged) -> np.ndarray:
    return _count(judged.query[judged.grade >= measure.rel], judged.queries)


def _within(query: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... within each group of equal, ascending query numbers."""
    return np.arange(len(query)) - np.searchsorted(query, query)


def _dcg(measure: Measure, hits: _Hits, queries: int) -> np.ndarray:
    keep = hits.grade > 0
    if measure.cutoff is not None:
        keep &= hits.rank < measure.cutoff
    grade = hits.grade[keep]
    gain = grade if measure.dcg == "log2" else np.exp2(grade) - 1
    return _count(hits.query[keep], queries, gain / np.log2(hits.rank[keep] + 2.0))


def _ndcg(measure: Measure, hits: _Hits, judged: _Judged) -> np.ndarray:
    best = np.lexsort((-judged.grade, judged.query))
    ideal = _Hits(judged.query, _within(judged.query), judged.grade[best])
    return _ratio(_dcg(measure, hits, judged.queries), _dcg(measure, ideal, judged.queries))


def _reciprocal_rank(measure: Measure, hits: _Hits, judged: _Judged) -> np.ndarray:
    found = _relevant(measure, hits)
    first = _within(found.query) == 0
    return _count(found.query[first], judged.queries, 1 / (found.rank[first] + 1))


def _recall(measure: Measure, hits: _Hits, judged: _Judged) -> np.ndarray:
    return _ratio(_count(_relevant(measure, hits).query, judged.queries), _number_relevant(measure, judged))


def _precision(measure: Measure, hits: _Hits, judged: _Judged) -> np.ndarray:
    assert measure.cutoff is not None
    return _count(_relevant(measure, hits).query, judged.queries) / measure.cutoff


def _average_precision(measure: Measure, hits: _Hits, judged: _Judged) -> np.ndarray:
    found = _relevant(measure, hits)
    precision = (_within(found.query) + 1) / (found.rank + 1)
    return _ratio(_count(found.query, judged.queries, precision), _number_relevant(measure, judged))


def _success(measure: Measure, hits: _Hits, judged: _Judged) -> np.ndarray:
    return (_count(_relevant(measure, hits).query, judged.queries) > 0).astype(np.float64)


def _judged_share(measure: Measure, hits: _Hits, judged: _Judged) -> np.ndarray:
    cutoff = np.iinfo(np.int64).max if measure.cutoff is None else measure.cutoff
    return _ratio(_count(hits.query[hits.rank < cutoff], judged.queries), np.minimum(judged.retrieved, cutoff))


_MEASURES: dict[str, Callable[[Measure, _Hits, _Judged], np.ndarray]] = {
    "nDCG": _ndcg,
    "RR": _reciprocal_rank,
    "R": _recall,
    "P": _precision,
    "AP": _average_precision,
    "Success": _success,
    "Judged": _judged_share,
}
