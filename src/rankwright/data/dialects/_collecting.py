"""A stream of items as a BEIR folder: texts are written as they come, ids and rows are collected and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ...progress import track
from ...storage import FileWriter, write_file
from ...types import Document, Qrels, Run
from ..dataset import RANKING
from ..formats import write_qrels, write_run
from ..policy import Reading, shown
from ..query_files import write_topics
from ._holdout import VALIDATION, HoldOut, divided
from ._items import SAMPLES, SCORES, Answered, Judgement, Query, Score, Stream, Wording
from ._rows import Contents, Rows

_FLUSH = 1 << 20  # characters


@dataclass(frozen=True)
class Evidence:
    """What is known of pairs of queries and documents: judgements by split, a teacher's scores, a ranking."""

    judged: dict[str, Qrels]
    scores: Run | None = None
    ranking: Run | None = None

    def hold_out(self, held: HoldOut, *, where: str) -> tuple[Evidence, Evidence, int]:
        """The rows to train on, those of the queries set aside, and how many queries these are.

        Queries that are judged in other splits stay where they are.

        Raises:
            DataError: there is a validation split already, or too few queries.
        """
        if VALIDATION in self.judged:
            raise DataError(f"has a split '{VALIDATION}' already", where=where, fix="leave --validation out")
        elsewhere = {q for name, table in self.judged.items() if name != held.split for q in table.queries}
        tables = [self.judged.get(held.split), self.scores, self.ranking]
        chosen = held.choose((q for t in tables if t for q in t.queries if q not in elsewhere), where=where)
        (judged, judged2), (scores, scores2), (ranking, ranking2) = (
            (None, None) if table is None else divided(table, chosen) for table in tables
        )
        others = {name: table for name, table in self.judged.items() if name != held.split}
        ours = others | ({held.split: judged} if judged else {})
        theirs = {VALIDATION: judged2} if judged2 else {}
        return Evidence(ours, scores, ranking), Evidence(theirs, scores2, ranking2), len(chosen)

    def write(self, folder: Path, *, infix: str = "") -> None:
        """``qrels/<split>.tsv``, ``scores.tsv``, ``ranking.trec``; `infix` stands before the suffix of the last two."""
        for name, table in sorted(self.judged.items()):
            write_qrels(folder / "qrels" / f"{name}.tsv", table)
        if self.scores is not None and len(self.scores):
            write_scores(folder / SCORES.replace(".", f"{infix}."), self.scores)
        if self.ranking is not None and len(self.ranking):
            write_run(folder / RANKING.replace(".", f"{infix}."), self.ranking, tag="ranking")


def write_evidence(folder: Path, found: Evidence, held: HoldOut | None, *, where: str) -> dict[str, int]:
    """Write all rows, those of the queries set aside to files of their own; how many queries these are, if any."""
    if held is None:
        found.write(folder)
        return {}
    train, aside, count = found.hold_out(held, where=where)
    train.write(folder)
    aside.write(folder, infix=f".{VALIDATION}")
    return {"queries for validation": count}


def write_beir(
    folder: Path, stream: Stream, *, source: str, split: str, reading: Reading, held: HoldOut | None = None
) -> dict[str, int]:
    """Write ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv`` and what there is of scores, rankings, answers.

    Which queries are wordings of one sample goes to ``samples.tsv``.

    Memory: 32 to 64 bytes a text, each id that a row names once, 24 bytes a row, the answers.

    Args:
        folder: where to; made with the first file.
        source: what is being read, for errors that no line is to blame for.
        split: of judgements that name none.
        held: which queries are set aside for validation; None: none.

    Returns:
        How many documents, queries, judgements, scores and ranked documents were written.

    Raises:
        DataError: a problem of policy.py in the source, or between its parts.
    """
    judged: dict[str, Rows] = {}
    answered: dict[str, dict[str, dict[str, None]]] = {}
    scored, ranked, corpus, queries = Rows(), Rows(), Contents(), Contents()
    samples: dict[str, str] = {}
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
            elif isinstance(item, Wording):
                samples.setdefault(item.query, item.sample)
            elif isinstance(item, Answered):
                answers = answered.setdefault(item.split or split, {}).setdefault(item.query, {})
                answers.update(dict.fromkeys(item.answers))
            else:
                (scored if isinstance(item, Score) else ranked).add(item.query, item.doc, item.score, where)
        for file in files:
            file.flush()
    if not len(corpus) or not len(queries) or not (judged or len(scored) or len(ranked) or answered):
        what = "holds no documents" if not len(corpus) else "holds no queries" if not len(queries) else "holds no rows"
        raise DataError(what, where=source, fix="check the path; texts by id are given by --corpus and --queries")
    if samples:
        write_topics(folder / SAMPLES, samples.items())
    tables = {_file_name(name, source): rows.judgements(reading, queries, corpus) for name, rows in judged.items()}
    scores, ranking = (rows.scores(reading, queries, corpus) if len(rows) else None for rows in (scored, ranked))
    for name, rows in answered.items():
        write_answers(folder / "answers" / f"{_file_name(name, source)}.jsonl", rows)
    counts = {
        "documents": len(corpus), "queries": len(queries), "judgements": sum(map(len, tables.values())),
        "scores": len(scores or ()), "ranked documents": len(ranking or ()),
        "questions with answers": sum(map(len, answered.values())),
    }  # fmt: skip
    return counts | write_evidence(folder, Evidence(tables, scores, ranking), held, where=source)


def write_answers(path: Path, rows: Mapping[str, Iterable[str]]) -> None:
    """Query id and answers, a question a line."""
    with write_file(path) as file:
        lines = Lines(file)
        for query, answers in rows.items():
            lines.add({"_id": query, "answers": list(answers)})
        lines.flush()


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
