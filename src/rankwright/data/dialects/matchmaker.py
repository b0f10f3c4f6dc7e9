"""matchmaker's text files: teacher scores of a pair of documents by id, and triples written out."""

from __future__ import annotations

from pathlib import Path

from .._fields import NUMBER
from .._lines import read_lines
from ..policy import Reading, shown
from ._items import JUDGED_ABOVE, JUDGED_BELOW, Dialect, Judgement, Record, Score, Stream, data_files
from ._records import first_line


class Matchmaker(Dialect):
    """``score_pos score_neg qid pos_id neg_id``, in any white space: the published teacher scores of MS MARCO."""

    name = "matchmaker"
    layout = "lines of score_pos, score_neg, query id, positive id, negative id; texts beside them"
    separate = frozenset({"corpus", "queries"})

    def sniff(self, path: Path) -> bool:
        line = _first_row(path)
        fields = line.split()
        texts = line.count("\t") == 4 and any(" " in field.strip() for field in line.split("\t"))
        return len(fields) == 5 and not texts and all(map(NUMBER.fullmatch, fields[:2]))

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            for number, line in read_lines(file, reading):
                record, fields = Record({}, f"{file}:{number}", reading), line.split()
                if len(fields) != 5:
                    what = f"{len(fields)} columns, expected 5 (two scores, query, positive, negative): {shown(line)}"
                    fix = "check that this is the file you meant"
                    reading.problem("wrong number of columns", what, where=record.where, fix=fix)
                    continue
                scores = [record.score(field) for field in fields[:2]]
                ids = [record.id(field, "id") for field in fields[2:]]
                if None not in scores and None not in ids:
                    yield from _pair(record.where, ids, scores)  # pyright: ignore[reportArgumentType]


class MatchmakerTexts(Dialect):
    """``query, positive, negative`` as texts between tabs, perhaps with two scores before them."""

    name = "matchmaker-texts"
    layout = "lines of query, positive and negative text between tabs, perhaps with two scores before them"

    def sniff(self, path: Path) -> bool:
        fields = _first_row(path).split("\t")
        scored = len(fields) == 5 and all(map(NUMBER.fullmatch, fields[:2]))
        return (len(fields) == 3 or scored) and all(" " in field.strip() for field in fields[-2:])

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            for number, line in read_lines(file, reading):
                record, fields = Record({}, f"{file}:{number}", reading), line.split("\t")
                if len(fields) not in (3, 5):
                    what = f"{len(fields)} columns, expected 3 (query, positive, negative) or 5 with scores before them"
                    fix = "separate columns by one tab, and write no tab inside a text"
                    reading.problem("wrong number of columns", f"{what}: {shown(line)}", where=record.where, fix=fix)
                    continue
                scores = [record.score(field) for field in fields[:-3]]
                query, docs = record.query(None, fields[-3]), [record.document(None, None, f) for f in fields[-2:]]
                if query is None or None in docs or None in scores:
                    continue
                yield record.where, query
                yield from ((record.where, doc) for doc in docs if doc is not None)
                ids = [query.id, *(doc.id for doc in docs if doc is not None)]
                yield from _pair(record.where, ids, [score for score in scores if score is not None])


def _first_row(path: Path) -> str:
    """The first line of the file, or of the rows that lie beside the texts of a folder."""
    files = data_files(path)
    return first_line(files[0]) if files else ""


def _pair(where: str, ids: list[str], scores: list[float]) -> Stream:
    query, above, below = ids
    yield where, Judgement(query, above, JUDGED_ABOVE)
    yield where, Judgement(query, below, JUDGED_BELOW)
    yield from ((where, Score(query, doc, score)) for doc, score in zip((above, below), scores))
