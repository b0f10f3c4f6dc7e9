"""Readers of teacher scores and of triples."""

from __future__ import annotations

from pathlib import Path

from ..types import Qrels
from ._fields import NUMBER
from ._tables import QUERY_NAMES, TREC_RUN, Dialect, Table, three_columns
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
    table = Table(Path(path), reading or Reading(), grades=False, repeats=True)
    table.read(_scores_dialect, _SCORES)
    return table.build(Qrels)


def read_triples(path: Path, reading: Reading | None = None) -> Qrels:
    """Triples (query, relevant, other) as grades: 1 for the one, 0 for the other; a pair may occur again.

    Raises:
        DataError: a problem of policy.py, such as a document that is both for one query.
    """
    table = Table(Path(path), reading or Reading(), grades=True, repeats=True)
    table.read_text(_triples_dialect, _TRIPLES)
    return table.build(Qrels)


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
