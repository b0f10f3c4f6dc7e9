"""Runs that a recipe reads again: its own, and a first stage from elsewhere, cut to what a test collection asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .data import Reading, read_run
from .errors import DataError
from .search import without_self
from .types import Run


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
