"""TREC runs as training data: a ranking of documents by id, with the texts beside it."""

from __future__ import annotations

from pathlib import Path

from .._fields import NUMBER, WHOLE
from ..formats import read_run
from ..policy import Reading
from ._items import Dialect, Ranked, Stream
from ._records import first_line


class TrecRun(Dialect):
    """``query Q0 document rank score tag``; ColBERTv2's hard negatives are such a file, with 0 for ``Q0``."""

    name = "run"
    layout = "a TREC run (query, Q0 or 0, document, rank, score, tag); texts beside it"
    separate = frozenset({"corpus", "queries"})

    def sniff(self, path: Path) -> bool:
        fields = [] if path.is_dir() else first_line(path).split()
        if len(fields) != 6 or fields[1] not in ("Q0", "0"):
            return False
        return bool(WHOLE.fullmatch(fields[3]) and NUMBER.fullmatch(fields[4]))

    def read(self, path: Path, reading: Reading) -> Stream:
        for query, docs, scores in read_run(path, reading):
            yield from ((str(path), Ranked(query, doc, score)) for doc, score in zip(docs, scores.tolist()))
