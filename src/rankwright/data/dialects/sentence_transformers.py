"""sentence-transformers' column layouts: anchor, positive and negatives; pairs with a score; lists with labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...types import Document
from ..policy import Reading, shown
from ._items import (
    JUDGED_ABOVE,
    JUDGED_BELOW,
    Dialect,
    Item,
    Judgement,
    Query,
    Record,
    Score,
    Stream,
    data_files,
    split_of,
)
from ._records import first_record, records

_ANCHORS = ("anchor", "query", "question", "sentence1", "sentence_0", "sentence_A")
_TARGETS = ("label", "labels", "score", "scores")


class SentenceTransformers(Dialect):
    """Columns in order: the query, its positive, its negatives; or the query, a list of documents and their labels.

    ``label(s)`` that are whole numbers are grades, ``score(s)`` and fractions are a teacher's scores: one a document.
    A column of negatives may hold lists.
    Held by Parquet, JSON lines, CSV or a folder that the `datasets` library saved. Texts make the ids.
    """

    name = "sentence-transformers"
    layout = "columns anchor, positive, negative_1 ...; or two sentences and a score; or query, docs, labels"

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        texts = [name for name in first if name not in _TARGETS]
        if len(texts) < 2 or texts[0] not in _ANCHORS or not isinstance(first[texts[0]], str):
            return False
        if isinstance(first[texts[1]], list):
            return len(texts) == 2 and texts[1] in ("docs", "documents") and len(first) == 3
        others = (first[name] for name in texts[2:])  # or a list of negatives
        return isinstance(first[texts[1]], str) and all(isinstance(other, str | list | None) for other in others)

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = split_of(file, path)
            for where, fields in records(file, reading):
                record = Record(fields, where, reading)
                for item in _items(record, split):
                    yield where, item


def _items(record: Record, split: str | None) -> Iterator[Item]:
    names = [name for name in record.fields if name not in _TARGETS]
    if len(names) < 2:
        what = f"the columns {shown(list(record.fields))} are no query and documents"
        record.reading.problem("missing field", what, where=record.where, fix="name them e.g. anchor, positive")
        return
    query = record.query(None, record.fields[names[0]])
    texts = record.list(names[1]) if isinstance(record.fields[names[1]], list) else _texts(record, names[1:])
    docs = [record.document(None, None, text) for text in texts]
    if query is None or not docs:
        return
    yield query
    yield from (doc for doc in docs if doc is not None)
    yield from _targets(record, query, docs, split)


def _texts(record: Record, names: list[str]) -> list[Any]:
    """Positive and negatives; absent negatives are left out, an absent positive is for the reader to refuse."""
    first, *others = (record.fields[name] for name in names)
    flat = (text for other in others for text in (other if isinstance(other, list) else [other]))
    return [first, *(text for text in flat if text is not None)]


def _targets(record: Record, query: Query, docs: list[Document | None], split: str | None) -> Iterator[Item]:
    name = next((name for name in _TARGETS if name in record.fields), None)
    if name is None:
        grades = [JUDGED_ABOVE, *[JUDGED_BELOW] * (len(docs) - 1)]
        yield from (Judgement(query.id, doc.id, grade, split) for doc, grade in zip(docs, grades) if doc is not None)
        return
    given = record.fields[name]
    values = [_number(value) for value in (given if isinstance(given, list) else [given])]
    if len(values) != len(docs):
        what = f"{name} is {shown(given)} for {len(docs)} documents"
        fix = "give one value a document: a margin alone does not say what either document scored"
        record.reading.problem("wrong number of columns", what, where=record.where, fix=fix)
        return
    whole = name.startswith("label") and all(
        isinstance(v, int) or (isinstance(v, float) and v % 1 == 0) for v in values
    )
    for doc, value in zip(docs, values):
        if doc is None:
            continue
        if whole:
            if (grade := record.grade(value)) is not None:
                yield Judgement(query.id, doc.id, grade, split)
        elif (score := record.score(value)) is not None:
            yield Score(query.id, doc.id, score)


def _number(value: Any) -> Any:
    """Columns of a CSV file hold text: whole numbers are told from others here."""
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 12:
        return int(value)
    return value
