"""Sources of supervision as a recipe names them: judgements, teacher scores, rankings, triples over a data set."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ..errors import RecipeError
from ..types import Qrels, Run
from ._parting import UNDIVIDED, Parting
from .dataset import rows_where
from .formats import qrels_parts, run_parts
from .keeping import Keep, in_fraction
from .query_files import read_query_ids
from .scores import score_parts, triple_parts

if TYPE_CHECKING:
    from .dataset import Dataset
    from .policy import Reading


class Source(ABC):
    """One place that relevance supervision comes from; a recipe names it, `parts` reads it.

    Attributes:
        dataset: folder or hub id of the texts.
        namespace: stands before the ids of its documents: equal ids of different corpora stay apart.
        query_namespace: the same for its queries.
        queries: its queries alone that a file names, or this part of them.
        keep: which documents of each query may be chosen.
        ranked: whether its rows are what a system found, so that a relevant document may be missing there.
    """

    dataset: str
    namespace: str | None
    query_namespace: str | None
    queries: str | float | None
    keep: Keep | None
    ranked: ClassVar[bool] = False

    @abstractmethod
    def file(self, dataset: Dataset) -> Path:
        """What it reads beside the texts.

        Raises:
            DataError: the data set has no such split.
        """

    @abstractmethod
    def parts(self, dataset: Dataset, *, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
        """What it says about the ids of the opened data set: higher is better, in file order within a query.

        One table for the queries of each part.

        Raises:
            DataError: a problem of policy.py.
        """

    def targets(self, values: np.ndarray) -> np.ndarray:
        """The targets of the values of `parts` (float64 [n]); `keep` has seen the values before."""
        return values

    def grades(self, values: np.ndarray) -> np.ndarray | None:
        """What the values of `parts` state about relevance: above 0 relevant, else not; NaN: nothing (float64 [n]).

        None: the targets are grades.
        """
        return None

    def chosen(self, *, reading: Reading) -> Callable[[Sequence[str]], np.ndarray]:
        """Tells which queries it is limited to: ids -> bool [n].

        Raises:
            DataError: the file of queries cannot be read.
        """
        limit = self.queries
        if limit is None:
            return lambda ids: np.ones(len(ids), bool)
        if isinstance(limit, str):
            wanted = set(read_query_ids(limit, reading))
            return lambda ids: np.array([query in wanted for query in ids], bool)
        return lambda ids: in_fraction(list(ids), limit)


def _check(source: Source, *texts: str) -> None:
    """What all sources have in common; `texts` are fields that may not be empty."""
    name = type(source).__name__
    for field in ("dataset", "namespace", "query_namespace", *texts):
        if getattr(source, field) == "":
            raise RecipeError(f"{field} is empty", where=f"{name}.{field}", fix=f"name a {field}")
    for field in ("namespace", "query_namespace"):
        value = getattr(source, field)
        if value is not None and any(c.isspace() for c in value):
            fix = "use a short word, e.g. synthetic"
            raise RecipeError(f"{field} {value!r} has white space in it", where=f"{name}.{field}", fix=fix)
    if source.queries == "" or (isinstance(source.queries, float) and not 0 < source.queries < 1):
        fix = "give a file of ids, or a part between 0 and 1, e.g. 0.1"
        raise RecipeError(f"queries is {source.queries!r}", where=f"{name}.queries", fix=fix)


def _check_finite(name: str, fields: Mapping[str, float | None]) -> None:
    for field, value in fields.items():
        if value is not None and not math.isfinite(value):
            fix = "give a finite number or leave it out"
            raise RecipeError(f"{field} is {value}", where=f"{name}.{field}", fix=fix)


@dataclass(frozen=True)
class Judged(Source):
    """Graded judgements: a split of a data set, or any qrels file over its ids.

    Grades are first filtered, then those of each query are picked by `keep`, then made targets: by `grade`, or by
    `relabel` and after it `floor` and `ceil`.

    Mined negatives come in as ``Judged(dataset, qrels="mined.tsv", grade=0)`` before the judgements themselves,
    so that a mined document which turns out to be judged keeps its judgement.

    Args:
        dataset: folder or hub id.
        split: whose judgements; not looked at when `qrels` is given.
        qrels: a qrels file instead of a split.
        min_grade, max_grade: only judgements within these, both included.
        grade: the target of all that remain, instead of their own grade.
        relabel: grade -> target, e.g. ``{1: 3, 2: 3}``; grades that it does not name stay.
        floor, ceil: targets below and above become this.
        queries: a file of query ids (the first column, or JSON lines), or a part of the queries, e.g. 0.1.
        keep: which documents of each query may be chosen, e.g. ``{random: 2}``.
        namespace: stands before its document ids: equal ids of different corpora stay apart.
        query_namespace: the same for its query ids.
    """

    dataset: str
    split: str = "train"
    qrels: str | None = None
    min_grade: float | None = None
    max_grade: float | None = None
    grade: float | None = None
    relabel: Mapping[float, float] | None = None
    floor: float | None = None
    ceil: float | None = None
    queries: str | float | None = None
    keep: Keep | None = None
    namespace: str | None = None
    query_namespace: str | None = None

    def __post_init__(self) -> None:
        _check(self, "split", "qrels")
        numbers = ("min_grade", "max_grade", "grade", "floor", "ceil")
        _check_finite("Judged", {name: getattr(self, name) for name in numbers})
        if self.relabel is not None:
            object.__setattr__(self, "relabel", _numbers(self.relabel))
        for low, high in (("min_grade", "max_grade"), ("floor", "ceil")):
            a, b = getattr(self, low), getattr(self, high)
            if a is not None and b is not None and a > b:
                what = f"{low} {a} is above {high} {b}"
                raise RecipeError(what, where="Judged", fix="no grade lies within: exchange them")
        if self.grade is not None and (self.relabel, self.floor, self.ceil) != (None, None, None):
            what = "grade is one target for all, so relabel, floor and ceil have nothing to do"
            raise RecipeError(what, where="Judged.grade", fix="give either grade or the others")

    def file(self, dataset: Dataset) -> Path:
        return dataset.file(self.split) if self.qrels is None else Path(self.qrels)

    def parts(self, dataset: Dataset, *, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
        path = self.file(dataset)
        for table in qrels_parts(path, reading, parting):
            table = dataset.checked(table, path, reading=reading)
            keep = np.ones(len(table), bool)
            if self.min_grade is not None:
                keep &= table.values >= self.min_grade
            if self.max_grade is not None:
                keep &= table.values <= self.max_grade
            yield rows_where(table, keep)

    def targets(self, values: np.ndarray) -> np.ndarray:
        if self.grade is not None:
            return np.full(len(values), float(self.grade))
        made = values.copy()
        for grade, target in (self.relabel or {}).items():
            made[values == grade] = target
        return np.clip(made, self.floor, self.ceil) if self.floor is not None or self.ceil is not None else made


def _numbers(relabel: Mapping[float, float]) -> dict[float, float]:
    """The mapping with numbers for keys: in YAML they are text."""
    try:
        made = {float(grade): float(target) for grade, target in relabel.items()}
    except ValueError as error:
        raise RecipeError(f"relabel: {error}", where="Judged.relabel", fix="e.g. relabel: {1: 3, 2: 3}") from None
    if not made or not all(map(math.isfinite, [*made, *made.values()])):
        raise RecipeError(f"relabel is {made}", where="Judged.relabel", fix="e.g. relabel: {1: 3, 2: 3}")
    return made


@dataclass(frozen=True)
class Scored(Source):
    """Scores that a teacher gave to pairs, or to lists of documents; targets are the scores.

    Every scored query is trained on, also one whose scores are all below 0. A score is no judgement: a document of
    another query's list counts there as an unjudged one does, whatever its score for this query. Name `Judged` beside
    this source where relevant documents are to be left out, or state `relevant_from`.

    Args:
        dataset: folder or hub id.
        scores: a file: ``query document score``; ``score of the relevant one, score of the other, query, relevant,
            other`` (five columns); a run; or JSON lines of ``qid``, ``docid`` and ``score``, single or in lists.
        relevant_from: a document with this score or more counts as relevant: it never becomes a negative of the query.
        queries: a file of query ids (the first column, or JSON lines), or a part of the queries, e.g. 0.1.
        keep: which documents of each query may be chosen, e.g. ``{random: 20}``.
        namespace: stands before its document ids: equal ids of different corpora stay apart.
        query_namespace: the same for its query ids.
    """

    dataset: str
    scores: str
    relevant_from: float | None = None
    queries: str | float | None = None
    keep: Keep | None = None
    namespace: str | None = None
    query_namespace: str | None = None

    def __post_init__(self) -> None:
        _check(self, "scores")
        _check_finite("Scored", {"relevant_from": self.relevant_from})

    def file(self, dataset: Dataset) -> Path:
        return Path(self.scores)

    def parts(self, dataset: Dataset, *, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
        path = Path(self.scores)
        return (dataset.checked(table, path, reading=reading) for table in score_parts(path, reading, parting))

    def grades(self, values: np.ndarray) -> np.ndarray:
        if self.relevant_from is None:
            return np.full(len(values), np.nan)
        return (values >= self.relevant_from).astype(np.float64)


@dataclass(frozen=True)
class Ranking(Source):
    """A ranking as targets: a system's, or the order that a language model gave.

    A place in a ranking is no judgement, as a score of `Scored` is none; `grade` is one.

    Args:
        dataset: folder or hub id.
        run: a TREC or MS MARCO run.
        depth: the first so many of each query; null: all.
        target: ``reciprocal_rank``: 1, 1/2, 1/3 ...; ``rank``: of n documents n, n - 1 ... 1; ``score``: the run's.
        grade: one target for all of them instead, e.g. 0: all are negatives.
        queries: a file of query ids (the first column, or JSON lines), or a part of the queries, e.g. 0.1.
        keep: which of these documents may be chosen, e.g. ``{random: 2}``.
        namespace: stands before its document ids: equal ids of different corpora stay apart.
        query_namespace: the same for its query ids.
    """

    dataset: str
    run: str
    depth: int | None = None
    target: Literal["reciprocal_rank", "rank", "score"] = "reciprocal_rank"
    grade: float | None = None
    queries: str | float | None = None
    keep: Keep | None = None
    namespace: str | None = None
    query_namespace: str | None = None
    ranked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self, "run")
        _check_finite("Ranking", {"grade": self.grade})
        if self.depth is not None and self.depth < 1:
            raise RecipeError(f"depth is {self.depth}", where="Ranking.depth", fix="give a whole number of 1 or more")
        if self.target not in ("reciprocal_rank", "rank", "score"):
            fix = "choose one of reciprocal_rank, rank and score"
            raise RecipeError(f"target is {self.target!r}", where="Ranking.target", fix=fix)

    def file(self, dataset: Dataset) -> Path:
        return Path(self.run)

    def parts(self, dataset: Dataset, *, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
        path = Path(self.run)
        for run in run_parts(path, reading, parting):
            yield self._as_targets(dataset.checked(run, path, reading=reading).ranked(self.depth))

    def _as_targets(self, run: Run) -> Qrels:
        sizes = np.diff(run.offsets)
        place = np.arange(len(run)) - np.repeat(run.offsets[:-1], sizes)
        if self.target == "score":
            values = run.values
        elif self.target == "rank":
            values = (np.repeat(sizes, sizes) - place).astype(np.float64)
        else:
            values = 1.0 / (place + 1)
        return Qrels(run.queries, run.docs, run.offsets, run.columns, values)

    def targets(self, values: np.ndarray) -> np.ndarray:
        return values if self.grade is None else np.full(len(values), float(self.grade))

    def grades(self, values: np.ndarray) -> np.ndarray | None:
        return np.full(len(values), np.nan) if self.grade is None else None


@dataclass(frozen=True)
class Triples(Source):
    """Query, relevant document, other document: the one has target 1, the other 0.

    Which documents stood together is not kept: a query's lists mix all of its documents.

    Args:
        dataset: folder or hub id.
        triples: a file of three ids a line, separated by tabs or spaces.
        queries: a file of query ids (the first column, or JSON lines), or a part of the queries, e.g. 0.1.
        keep: which documents of each query may be chosen, e.g. ``{top: 4}``.
        namespace: stands before its document ids: equal ids of different corpora stay apart.
        query_namespace: the same for its query ids.
    """

    dataset: str
    triples: str
    queries: str | float | None = None
    keep: Keep | None = None
    namespace: str | None = None
    query_namespace: str | None = None

    def __post_init__(self) -> None:
        _check(self, "triples")

    def file(self, dataset: Dataset) -> Path:
        return Path(self.triples)

    def parts(self, dataset: Dataset, *, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
        path = Path(self.triples)
        return (dataset.checked(table, path, reading=reading) for table in triple_parts(path, reading, parting))
