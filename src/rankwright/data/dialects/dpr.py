"""DPR's layout: a JSON list of questions, each with its positive, negative and hard negative passages."""

from __future__ import annotations

from pathlib import Path

from .._fields import check_text
from ..policy import Reading
from ._items import (
    JUDGED_ABOVE,
    JUDGED_BELOW,
    Answered,
    Dialect,
    Judgement,
    Query,
    Record,
    Stream,
    Wording,
    data_files,
    split_of,
)
from ._records import first_record, records

_POSITIVE = ("positive_ctxs", "positive_contexts")
_RANDOM = ("negative_ctxs",)
_HARD = ("hard_negative_ctxs", "hardneg_contexts")
_GRADES = ((_POSITIVE, JUDGED_ABOVE), (_HARD, JUDGED_BELOW), (_RANDOM, JUDGED_BELOW))
_STRATA = ((_POSITIVE, 2.0), (_HARD, 1.0), (_RANDOM, 0.0))


class DPR(Dialect):
    """``question, positive_ctxs[{title, text, passage_id}], negative_ctxs[...], hard_negative_ctxs[...]``.

    SR-DPR's names are understood too: ``questions[], positive_contexts, hardneg_contexts``; each wording of a question
    becomes a query. Queries have no id, so their text makes it. ``answers[]`` are kept where there are any.

    Args:
        strata: positive, hard and other negatives as grades 2, 1 and 0 instead of 1, 0 and 0, and questions as SR-DPR
            and DPR train on them, without a question mark at the end.
    """

    name = "dpr"
    layout = "a JSON list with question, positive_ctxs, negative_ctxs and hard_negative_ctxs"

    def __init__(self, *, strata: bool = False) -> None:
        self.strata = strata

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
                queries = self._queries(record)
                yield from ((where, query) for query in queries)
                if len(queries) > 1:
                    stated = record.get("sample_id")
                    sample = None if stated is None else record.id(stated, "sample id")
                    sample = queries[0].id if sample is None else sample
                    yield from ((where, Wording(query.id, sample)) for query in queries)
                answers = record.list("answers")
                if not all(isinstance(answer, str) for answer in answers):
                    record.wrong("answers", "a list of texts", answers)
                elif answers:
                    texts = tuple(text for a in answers if (text := check_text(a, where, reading)) is not None)
                    yield from ((where, Answered(query.id, texts, split)) for query in queries)
                hard: set[str] = set()
                for names, grade in _STRATA if self.strata else _GRADES:
                    for passage in (passage for name in names for passage in record.list(name)):
                        if not isinstance(passage, dict):
                            record.wrong("a passage", "an object", passage)
                            continue
                        inner = Record(passage, where, reading)
                        key = inner.get("passage_id", "psg_id", "id")
                        document = inner.document(key, passage.get("title"), inner.get("text"))
                        if document is None:
                            continue
                        yield where, document
                        if names is _HARD:
                            hard.add(document.id)
                        if names is not _RANDOM or document.id not in hard:  # in both lists: it is hard
                            yield from ((where, Judgement(q.id, document.id, grade, split)) for q in queries)

    def _queries(self, record: Record) -> list[Query]:
        """The wordings of a question, each once."""
        texts = record.list("questions") if "questions" in record.fields else [record.fields.get("question")]
        if not texts:
            problem, fix = record.reading.problem, "give the record a question"
            problem("missing field", "questions are missing", where=record.where, fix=fix)
        if self.strata:
            texts = [text.removesuffix("?").strip() if isinstance(text, str) else text for text in texts]
        made = [query for text in texts if (query := record.query(None, text)) is not None]
        return list(dict.fromkeys(made))
