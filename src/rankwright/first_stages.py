"""Runs that a recipe reads again: its own, a first stage from elsewhere, a data set's pools, and what validates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from . import assemble
from .data import Dataset, Reading, read_run
from .errors import DataError
from .names import picked
from .plan import Evaluation, Reranking, Validation
from .search import LexicalIndex, without_self
from .training import distributed
from .types import Run

_ALL = 2**31 - 1  # documents of a query


def first_of(how: Reranking, evaluation: Evaluation, dataset: Dataset, queries: Sequence[str], reading: Reading) -> Run:
    """The documents of each query that are re-ranked, where they are read from a file.

    Raises:
        DataError: as `given_run`; a data set without pools; a document to be re-ranked that the data set lacks.
    """
    path, depth, ranked = Path(how.first), evaluation.depth, how.depth
    if how.first == "pool":
        path, depth, ranked = dataset.ranking, _ALL, _ALL
        if not path.is_file():
            fix = "convert the conversations again, or name a run: rerank: {first: run.trec}"
            raise DataError(f"the data set has no {path.name}: no pool for each query", where=dataset.folder, fix=fix)
    found = given_run(str(path), queries, reading, depth=depth, drop_self=evaluation.drop_self)
    _require_texts(found.ranked(ranked), dataset, path)
    return found


def _require_texts(run: Run, dataset: Dataset, where: Path) -> None:
    ids = picked(run.docs, np.unique(run.columns))
    if len(absent := np.flatnonzero(dataset.corpus.rows(ids) < 0)):
        what = f"ranks document {ids[int(absent[0])]!r}, which is not in {dataset.name}"
        raise DataError(what, where=where, fix="add it to the data set, or take it out of the file")


def validation_inputs(spec: Validation, dataset: Dataset, candidates: Run | None) -> list[object]:
    """What a validation depends on: texts, judgements, candidates that were given."""
    texts = [dataset.corpus.fingerprint, dataset.queries.fingerprint]
    return [texts, dataset.qrels(spec.split).to_dict(), candidates.to_dict() if candidates else None]


def validation_run(
    spec: Validation, dataset: Dataset, reading: Reading, index: Callable[[], LexicalIndex]
) -> Run | None:
    """The documents that are ranked in validation; None: the whole corpus is searched."""
    if spec.candidates != "bm25":
        return read_run(Path(spec.candidates), reading) if spec.candidates else None
    with distributed.first_alone():
        made = index()
    return assemble.bm25_run(dataset, made, dataset.qrels(spec.split).queries, depth=spec.depth)


def given_run(name: str, queries: Sequence[str], reading: Reading, *, depth: int, drop_self: bool) -> Run:
    """The first `depth` documents of each of these queries in a run file, self-hits left out if asked.

    Raises:
        DataError: it cannot be read, or ranks none of the queries.
    """
    asked, found = set(queries), read_run(Path(name), reading)
    rows = [(q, doc, score) for q, docs, scores in found if q in asked for doc, score in zip(docs, scores.tolist())]
    if not rows:
        what = f"ranks none of the {len(asked):,} judged queries"
        raise DataError(what, where=name, fix="give a run of this collection's queries")
    kept = Run.from_rows(*zip(*rows)).ranked()
    return (without_self(kept, depth=depth) if drop_self else kept).ranked(depth)


def own_run(path: Path) -> Run:
    """A run that a step wrote; lenient, because a run that found nothing at all has no row."""
    return read_run(path, Reading(lenient=True))
