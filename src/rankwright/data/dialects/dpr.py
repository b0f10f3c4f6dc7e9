"""DPR's layout: a JSON list of questions, each with its positive, negative and hard negative passages."""

from __future__ import annotations

from pathlib import Path

from ..policy import Reading
from ._items import JUDGED_ABOVE, JUDGED_BELOW, Dialect, Judgement, Record, Stream, data_files, split_of
from ._records import first_record, records

_CONTEXTS = (
    (("positive_ctxs", "positive_contexts"), JUDGED_ABOVE),
    (("negative_ctxs",), JUDGED_BELOW),
    (("hard_negative_ctxs", "hardneg_contexts"), JUDGED_BELOW),
)


class DPR(Dialect):
    """``question, positive_ctxs[{title, text, passage_id}], negative_ctxs[...], hard_negative_ctxs[...]``.

    SR-DPR's names are understood too: ``questions[], positive_contexts, hardneg_contexts``; each wording of a question
    becomes a query. Queries have no id, so their text makes it.
    """

    name = "dpr"
    layout = "a JSON list with question, positive_ctxs, negative_ctxs and hard_negative_ctxs"

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        return ("question" in first or "questions" in first) and bool(
            {"positive_ctxs", "positive_contexts"} & set(first)
        )

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = split_of(file, path)
            for where, fields in records(file, reading):
                record = Record(fields, where, reading)
                wordings = record.list("questions") if "questions" in fields else [fields.get("question")]
                queries = [query for text in wordings if (query := record.query(None, text)) is not None]
                yield from ((where, query) for query in queries)
                for names, grade in _CONTEXTS:
                    for passage in (passage for name in names for passage in record.list(name)):
                        if not isinstance(passage, dict):
                            record.wrong("a passage", "an object", passage)
                            continue
                        inner = Record(passage, where, reading)
                        key = inner.get("passage_id", "psg_id", "id")
                        document = inner.document(key, passage.get("title"), inner.get("text"))
                        if document is not None:
                            yield where, document
                            yield from ((where, Judgement(q.id, document.id, grade, split)) for q in queries)
