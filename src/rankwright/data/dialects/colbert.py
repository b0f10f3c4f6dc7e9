"""ColBERT's JSON lines: triples and n-way lists by id, with the scores of a teacher or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._fields import is_clean_id
from .._json import JsonParser
from .._lines import kind_of, read_lines
from ..policy import Reading, shown
from ._items import (
    JUDGED_ABOVE,
    JUDGED_BELOW,
    Dialect,
    Judgement,
    Record,
    Score,
    Stream,
    checked_id,
    data_files,
    split_of,
)
from ._records import first_line, first_record, records


class ColBERT(Dialect):
    """``[qid, [pid, score], [pid, score], ...]`` or ``[qid, pid, pid, ...]`` a line: the first document is relevant.

    Lists with scores are a teacher's and judge nothing. Records ``query_id, document_ids[], scores[]`` (the layout of
    PyLate) are read as well.
    """

    name = "colbert"
    layout = "JSON lines [qid, [pid, score], ...] or [qid, pid+, pid-, ...]; collection.tsv and queries.tsv beside them"
    separate = frozenset({"corpus", "queries"})

    def sniff(self, path: Path) -> bool:
        if not path.exists():
            return False
        record = first_record(path)
        if "document_ids" in record and "scores" in record:
            return True
        line = next((first_line(file).strip() for file in data_files(path) if kind_of(file) in _JSON), "")
        head = JsonParser(Reading(lenient=True)).value(line, "") if line.startswith("[") else None
        if not isinstance(head, list) or len(head) < 2:
            return False
        return isinstance(head[0], int) or (isinstance(head[0], str) and is_clean_id(head[0]))

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            if kind_of(file) not in (*_JSON, ".parquet", ".arrow"):
                continue
            if "document_ids" in first_record(file):
                yield from _named(file, reading)
            else:
                yield from _lists(file, split_of(file, path), reading)


_JSON = (".jsonl", ".ndjson", ".json")


def _lists(file: Path, split: str | None, reading: Reading) -> Stream:
    parser, empty = JsonParser(reading), True
    for number, line in read_lines(file, reading):
        where, empty = f"{file}:{number}", False
        values = parser.value(line, where)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) < 2:
            what, fix = f"not a list of a query and documents: {shown(line)}", "write [qid, [pid, score], ...]"
            reading.problem("wrong type", what, where=where, fix=fix)
            continue
        query = checked_id(values[0], "query id", where, reading)
        if query is not None:
            yield from _documents(query, values[1:], where, split, reading)
    if empty:
        reading.problem("empty file", "holds no record", where=file, fix="check that this is the file you meant")


def _documents(query: str, values: list[Any], where: str, split: str | None, reading: Reading) -> Stream:
    record = Record({}, where, reading)
    for place, value in enumerate(values):
        if isinstance(value, list):
            if len(value) != 2:
                record.wrong("a document", "[pid, score]", value)
                continue
            doc, score = record.id(value[0], "document id"), record.score(value[1])
            if doc is not None and score is not None:
                yield where, Score(query, doc, score)
        elif (doc := record.id(value, "document id")) is not None:
            yield where, Judgement(query, doc, JUDGED_BELOW if place else JUDGED_ABOVE, split)


def _named(file: Path, reading: Reading) -> Stream:
    for where, fields in records(file, reading):
        record = Record(fields, where, reading)
        query, docs = record.id(fields.get("query_id"), "query id"), record.list("document_ids")
        for key, score in zip(docs, record.scores("scores", len(docs))):
            doc = record.id(key, "document id")
            if query is not None and doc is not None and score is not None:
                yield where, Score(query, doc, score)
