"""Tevatron's layouts: passages written out with each query, or named by id."""

from __future__ import annotations

from pathlib import Path

from ..policy import Reading
from ._items import JUDGED_ABOVE, JUDGED_BELOW, Dialect, Judgement, Record, Stream, data_files, split_of
from ._records import first_record, records

_SIDES = (("positive", JUDGED_ABOVE), ("negative", JUDGED_BELOW))


class Tevatron(Dialect):
    """``query_id, query, positive_passages[{docid, title, text}], negative_passages[...]``."""

    name = "tevatron"
    layout = "records with query_id, query, positive_passages and negative_passages"

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        return "query" in first and "positive_passages" in first and "retrieved_passages" not in first

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = split_of(file, path)
            for where, fields in records(file, reading):
                record = Record(fields, where, reading)
                query = record.query(record.get("query_id"), record.get("query"))
                if query is None:
                    continue
                yield where, query
                for side, grade in _SIDES:
                    for passage in record.list(f"{side}_passages"):
                        if not isinstance(passage, dict):
                            record.wrong("a passage", "an object", passage)
                            continue
                        inner = Record(passage, where, reading)
                        document = inner.document(inner.get("docid"), passage.get("title"), inner.get("text"))
                        if document is not None:
                            yield where, document
                            yield where, Judgement(query.id, document.id, grade, split)


class TevatronIds(Dialect):
    """``query_id, query_text, positive_document_ids[], negative_document_ids[]`` over a corpus of its own."""

    name = "tevatron-ids"
    layout = "records with query_id, query_text, positive_document_ids and negative_document_ids; a corpus beside them"
    separate = frozenset({"corpus"})

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        return "positive_document_ids" in first

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = split_of(file, path)
            for where, fields in records(file, reading):
                record = Record(fields, where, reading)
                query = record.query(record.get("query_id"), record.get("query_text", "query"))
                if query is None:
                    continue
                yield where, query
                for side, grade in _SIDES:
                    for key in record.list(f"{side}_document_ids"):
                        doc = record.id(key, "document id")
                        if doc is not None:
                            yield where, Judgement(query.id, doc, grade, split)
