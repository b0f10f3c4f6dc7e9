"""Trove's layouts: judgements grouped by query, and synthetic corpora whose ids carry query and level."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..formats import read_corpus
from ..policy import Reading, shown
from ._items import Dialect, Judgement, Record, Stream, data_files, split_of, text_files
from ._records import first_record, records

_SYNTHETIC = re.compile(r"(?P<query>.+)_l_(?P<level>-?[0-9]{1,9})_d_[0-9]+")


class Trove(Dialect):
    """JSON lines ``qid, docid[], score[]`` (also single values), with corpus and queries beside them."""

    name = "trove"
    layout = "JSON lines with qid, docid and score as lists, corpus.jsonl and queries.jsonl beside them"
    separate = frozenset({"corpus", "queries"})

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        return "qid" in first and "docid" in first and "score" in first

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = split_of(file, path)
            for where, fields in records(file, reading):
                for query, doc, grade in _group(Record(fields, where, reading)):
                    yield where, Judgement(query, doc, grade, split)


def _group(record: Record) -> list[tuple[str, str, float]]:
    query = record.id(record.fields.get("qid"), "query id")
    docs, grades = record.fields.get("docid"), record.fields.get("score")
    if query is None:
        return []
    if not isinstance(docs, list) and not isinstance(grades, list):
        docs, grades = [docs], [grades]
    if not isinstance(docs, list) or not isinstance(grades, list) or len(docs) != len(grades):
        what = f"docid and score are not of one length: {shown(docs)} and {shown(grades)}"
        fix = "write one score a document"
        record.reading.problem("wrong number of columns", what, where=record.where, fix=fix)
        return []
    rows: list[tuple[str, Any, Any]] = [
        (query, record.id(d, "document id"), record.grade(g)) for d, g in zip(docs, grades)
    ]
    return [row for row in rows if None not in row]


class SyDir(Dialect):
    """A synthetic corpus whose ids read ``<query>_l_<level>_d_<number>``: the level is the grade."""

    name = "sydir"
    layout = "corpus files whose ids read <query>_l_<level>_d_<number>, queries.jsonl beside them"
    separate = frozenset({"queries"})

    def sniff(self, path: Path) -> bool:
        return any(_SYNTHETIC.fullmatch(str(first_record(file).get("_id"))) for file in _corpora(path)[:1])

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in _corpora(path):
            for document in read_corpus(file, reading):
                if match := _SYNTHETIC.fullmatch(document.id):
                    yield str(file), document
                    yield str(file), Judgement(match["query"], document.id, float(match["level"]))
                    continue
                what = f"the id {shown(document.id)} does not read <query>_l_<level>_d_<number>"
                fix = "give such a document its grade in a qrels file"
                reading.problem("id without grade", what, where=file, fix=fix)


def _corpora(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return text_files(path, "corpus") or data_files(path)
