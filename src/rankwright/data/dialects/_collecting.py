"""A stream of items as a BEIR folder: texts are written as they come, ids and rows are collected and checked."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from ...errors import DataError
from ...progress import track
from ...storage import FileWriter, write_file
from ...types import Document, Run
from ..formats import write_qrels
from ..policy import Reading, shown
from ._items import SCORES, Judgement, Query, Stream
from ._rows import Contents, Rows

_FLUSH = 1 << 20  # characters


def write_beir(folder: Path, stream: Stream, *, source: str, split: str, reading: Reading) -> dict[str, int]:
    """Write ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv`` and, if there are any, ``scores.tsv``.

    Memory: 32 to 64 bytes a text, each id that a row names once, 24 bytes a row.

    Args:
        folder: where to; made with the first file.
        source: what is being read, for errors that no line is to blame for.
        split: of judgements that name none.

    Returns:
        How many documents, queries, judgements and scores were written.

    Raises:
        DataError: a problem of policy.py in the source, or between its parts.
    """
    judged: dict[str, Rows] = {}
    scored, corpus, queries = Rows(), Contents(), Contents()
    with ExitStack() as stack:
        files = [Lines(stack.enter_context(write_file(folder / f"{name}.jsonl"))) for name in ("corpus", "queries")]
        for where, item in track(stream, "read", unit="records"):
            if isinstance(item, Document):
                if _new(corpus, item.id, item.title, item.text, "document id", where, reading):
                    files[0].add({"_id": item.id, "title": item.title, "text": item.text})
            elif isinstance(item, Query):
                if _new(queries, item.id, "", item.text, "query id", where, reading):
                    files[1].add({"_id": item.id, "text": item.text})
            elif isinstance(item, Judgement):
                judged.setdefault(item.split or split, Rows()).add(item.query, item.doc, item.grade, where)
            else:
                scored.add(item.query, item.doc, item.score, where)
        for file in files:
            file.flush()
    if not len(corpus) or not len(queries) or not (judged or len(scored)):
        what = "holds no documents" if not len(corpus) else "holds no queries" if not len(queries) else "holds no rows"
        raise DataError(what, where=source, fix="check the path; texts by id are given by --corpus and --queries")
    counts = {"documents": len(corpus), "queries": len(queries), "judgements": 0, "scores": 0}
    for name, rows in sorted(judged.items()):
        table = rows.judgements(reading, queries, corpus)
        write_qrels(folder / "qrels" / f"{_file_name(name, source)}.tsv", table)
        counts["judgements"] += len(table)
    if len(scored):
        table = scored.scores(reading, queries, corpus)
        write_scores(folder / SCORES, table)
        counts["scores"] = len(table)
    return counts


def write_scores(path: Path, table: Run) -> None:
    """Query, document and score between tabs, a pair a line; scores read back to the same bits."""
    with write_file(path) as raw:
        file = Lines(raw)
        for query, docs, values in table:
            file.write("".join(f"{query}\t{doc}\t{v!r}\n" for doc, v in zip(docs, values.tolist())))
        file.flush()


def _file_name(split: str, source: str) -> str:
    if split.replace(".", "").replace("-", "").replace("_", "").isalnum() and split[0].isalnum():
        return split
    raise DataError(f"'{split}' cannot name a split", where=source, fix="name the file or folder of rows otherwise")


def _new(seen: Contents, key: str, title: str, text: str, kind: str, where: str, reading: Reading) -> bool:
    """Whether a text is to be written; a second one under the same id is a problem when it reads otherwise."""
    known = seen.add(key, f"{len(title)} {title}{text}")
    if known is False:
        what = f"the {kind} {shown(key)} was given before, with another text: {shown(text)}"
        reading.problem("duplicate id", what, where=where, fix="give every text its own id")
    return known is None


class Lines:
    """Lines gathered into writes of about 1 MB."""

    def __init__(self, file: FileWriter) -> None:
        self._file, self._parts, self._size = file, list[str](), 0

    def add(self, record: object) -> None:
        self.write(json.dumps(record, ensure_ascii=False) + "\n")

    def write(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        self._file.write("".join(self._parts).encode())
        self._parts, self._size = [], 0
