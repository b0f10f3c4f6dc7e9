"""Readers of teacher scores and of triples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..types import Qrels
from ._columns import QUERY_NAMES, TREC_RUN, Dialect, three_columns
from ._fields import NUMBER
from ._parting import UNDIVIDED, Parting
from ._tables import Table
from .policy import Reading

_SCORES = (
    "3 (query, document, score), 5 (score of the relevant document, score of the other, query, relevant, other) "
    "or 6 (TREC run)"
)
_TRIPLES = "3 (query, relevant document, other document)"
_ONE_PAIR = Dialect(None, 5, 2, 3, 0)
_PAIRS = _ONE_PAIR._replace(also=(_ONE_PAIR._replace(doc=4, value=1),))


def read_scores(path: Path, reading: Reading | None = None) -> Qrels:
    """Scores of (query, document) pairs, values higher is better, not necessarily above 0.

    The formats: three columns (query, document, score), the five of matchmaker (pos_score neg_score qid pos_id neg_id),
    a TREC run, or JSON lines and Parquet with the names of qrels. A pair may be scored again, by the same up to 1 %:
    the highest counts.

    Raises:
        DataError: a problem of policy.py.
    """
    return next(score_parts(path, reading or Reading()))


def score_parts(path: Path, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
    """`read_scores` for the queries of one part after the other."""
    table = Table(Path(path), reading, grades=False, repeats=True, parting=parting)
    table.read(_scores_dialect, _SCORES)
    yield from table.parts(Qrels)


def read_triples(path: Path, reading: Reading | None = None) -> Qrels:
    """Triples (query, relevant, other) as grades: 1 for the one, 0 for the other; a pair may occur again.

    Raises:
        DataError: a problem of policy.py, such as a document that is both for one query.
    """
    return next(triple_parts(path, reading or Reading()))


def triple_parts(path: Path, reading: Reading, parting: Parting = UNDIVIDED) -> Iterator[Qrels]:
    """`read_triples` for the queries of one part after the other."""
    table = Table(Path(path), reading, grades=True, repeats=True, parting=parting)
    table.read_text(_triples_dialect, _TRIPLES)
    yield from table.parts(Qrels)


def _scores_dialect(line: str) -> Dialect | None:
    if (found := three_columns(line)) is not None:
        return found
    words = line.split()
    if len(words) == 5 and all(map(NUMBER.fullmatch, words[:2])):
        return _PAIRS
    return TREC_RUN if len(words) == 6 else None


def _triples_dialect(line: str) -> Dialect | None:
    separator = "\t" if "\t" in line else None
    fields = line.split(separator)
    if len(fields) != 3:
        return None
    one = Dialect(separator, 3, 0, 1, None, header=fields[0] in QUERY_NAMES, constant=1.0)
    return one._replace(also=(one._replace(doc=2, constant=0.0),))
