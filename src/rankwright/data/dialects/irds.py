"""Data sets of the package ir_datasets, by their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import DataError, missing_extra
from ..policy import Reading
from ._items import Dialect, Judgement, Record, Score, Stream

PREFIX = "ir_datasets:"


class IrDatasets(Dialect):
    """``ir_datasets:msmarco-passage/train``: documents, queries, qrels, scored documents, where there are any."""

    name = "ir_datasets"
    layout = "ir_datasets:<id>, e.g. ir_datasets:msmarco-passage/train (needs the package ir_datasets)"

    def sniff(self, path: Path) -> bool:
        return str(path).startswith(PREFIX)

    def read(self, path: Path, reading: Reading) -> Stream:
        try:
            import ir_datasets  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise missing_extra("ir_datasets", "irds", f"reading '{path}'") from None
        name = str(path).removeprefix(PREFIX)
        try:
            dataset = ir_datasets.load(name)
        except KeyError:
            fix = "look its id up on ir-datasets.com"
            raise DataError(f"ir_datasets has no data set '{name}'", where=str(path), fix=fix) from None
        yield from _all(dataset, str(path), reading)


def _all(dataset: Any, source: str, reading: Reading) -> Stream:
    record = Record({}, source, reading)
    if dataset.has_docs():
        for doc in dataset.docs_iter():
            title = doc.title if "title" in doc._fields else None
            text = doc.text if "text" in doc._fields else doc.default_text()
            if (document := record.document(doc.doc_id, title, text)) is not None:
                yield source, document
    if dataset.has_queries():
        for row in dataset.queries_iter():
            text = row.text if "text" in row._fields else row.default_text()
            if (query := record.query(row.query_id, text)) is not None:
                yield source, query
    if dataset.has_qrels():
        for row in dataset.qrels_iter():
            query, doc = record.id(row.query_id, "query id"), record.id(row.doc_id, "document id")
            grade = record.grade(row.relevance)
            if query is not None and doc is not None and grade is not None:
                yield source, Judgement(query, doc, grade)
    if dataset.has_scoreddocs():
        for row in dataset.scoreddocs_iter():
            query, doc = record.id(row.query_id, "query id"), record.id(row.doc_id, "document id")
            score = record.score(row.score)
            if query is not None and doc is not None and score is not None:
                yield source, Score(query, doc, score)
