"""FlagEmbedding's layout: a query with lists of positive and negative texts, perhaps with a teacher's scores."""

from __future__ import annotations

from pathlib import Path

from ..policy import Reading
from ._items import JUDGED_ABOVE, JUDGED_BELOW, Dialect, Judgement, Record, Score, Stream, data_files, split_of
from ._records import first_record, records


class FlagEmbedding(Dialect):
    """``query, pos[], neg[]`` and perhaps ``pos_scores[], neg_scores[]``; texts make the ids."""

    name = "flagembedding"
    layout = "JSON lines with query, pos and neg, perhaps pos_scores and neg_scores"

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        return isinstance(first.get("query"), str) and isinstance(first.get("pos"), list)

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = split_of(file, path)
            for where, fields in records(file, reading):
                record = Record(fields, where, reading)
                query = record.query(None, record.get("query"))
                if query is None:
                    continue
                yield where, query
                for side, grade in (("pos", JUDGED_ABOVE), ("neg", JUDGED_BELOW)):
                    texts = record.list(side)
                    for text, score in zip(texts, record.scores(f"{side}_scores", len(texts))):
                        document = record.document(None, None, text)
                        if document is None:
                            continue
                        yield where, document
                        yield where, Judgement(query.id, document.id, grade, split)
                        if score is not None:
                            yield where, Score(query.id, document.id, score)
