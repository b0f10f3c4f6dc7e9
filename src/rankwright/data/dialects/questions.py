"""Questions with answers and nothing else, which open-domain question answering is measured by."""

from __future__ import annotations

import re
from pathlib import Path

from ..answer_files import question_records
from ..policy import Reading
from ._items import Answered, Dialect, Query, Stream, content_id, data_files, split_of
from ._records import first_line, first_record

_ROW = re.compile(r"[^\t]+\t\"?\[.*\]\"?")  # DPR's: a question and a list as Python writes it
_PASSAGES = {"positive_ctxs", "positive_contexts", "ctxs"}


class Questions(Dialect):
    """``question, answers`` as TSV, CSV, JSON or JSON lines; the passages are a corpus beside it.

    A question without an id gets one that is made of its text.
    """

    name = "questions"
    layout = "questions with answers (TSV, CSV, JSON), a corpus of passages beside them"
    separate = frozenset({"corpus"})

    def sniff(self, path: Path) -> bool:
        if _ROW.fullmatch(first_line(path).rstrip()):
            return True
        first = first_record(path)
        return "question" in first and bool({"answer", "answers"} & set(first)) and not _PASSAGES & set(first)

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = split_of(file, path)
            for where, record in question_records(file, reading):
                key = record.id or content_id("", record.text or "")
                if record.text is not None:
                    yield where, Query(key, record.text)
                yield where, Answered(key, tuple(record.answers), split)
