"""Conversations over documents: ChatRAG-Bench's layout, and histories with a gold document among a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...types import Document
from .._json import JsonParser
from .._lines import read_text_chunks
from ..policy import Reading, shown
from ._items import JUDGED_ABOVE, JUDGED_BELOW, Dialect, Item, Judgement, Query, Ranked, Record, Stream, data_files
from ._items import split_of as _split_of
from ._records import first_record, records
from ._turns import Turns

_DOCUMENTS = "documents.json"
_LAST_FIVE, _ALL = Turns(), Turns(None, {"user": "User", "assistant": "Agent"})


@dataclass(frozen=True)
class ChatRAG(Dialect):
    """``messages[{role, content}]``, ``ground_truth_ctx``, and ``document`` with ``documents.json`` or ``ctxs[]``.

    ``documents.json`` holds the chunks of each document; those of a query's own document, or its ``ctxs``, become its
    pool in ``ranking.trec``. Chunk i of a document has the id ``<document>#<i>``. Turns of the assistant behind the
    last question are left out: they answer it.

    Args:
        turns: how a conversation becomes a query.
        answers: put `` || <answer>`` behind the gold chunks, once for each conversation, as the published evaluation
            does it for QReCC. It gives the answer away.
    """

    turns: Turns = _LAST_FIVE
    answers: bool = False

    name: ClassVar[str] = "chatrag"
    layout: ClassVar[str] = "records with messages and ground_truth_ctx; documents.json beside them, or ctxs"
    own_texts: ClassVar[bool] = True

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        return isinstance(first.get("messages"), list) and "ground_truth_ctx" in first

    def read(self, path: Path, reading: Reading) -> Stream:
        place = (path if path.is_dir() else path.parent) / _DOCUMENTS
        chunks = _chunks(place, reading) if place.is_file() else {}
        if self.answers:
            self._give_away(path, chunks)
        for document, texts in chunks.items():
            for number, text in enumerate(texts):
                made = Record({}, str(place), reading).document(f"{document}#{number}", None, text)
                if made is not None:
                    yield str(place), made
        for file in data_files(path):
            split = _split_of(file, path)
            for number, (where, fields) in enumerate(records(file, reading)):
                record = Record(fields, where, reading)
                query = record.query(record.get("id", "qid") or f"{_name(file.stem)}-{number}", self._text(record))
                if query is not None:
                    for item in self._items(record, query, chunks, split):
                        yield where, item

    def _text(self, record: Record) -> str | None:
        turns = [t for turn in record.list("messages") if (t := _turn(record, turn)) is not None]
        while turns and turns[-1][0] == "assistant":
            turns.pop()
        return self.turns.render(turns) if turns else None

    def _items(self, record: Record, query: Query, chunks: dict[str, list[Any]], split: str | None) -> Iterator[Item]:
        if record.fields.get("document") is not None and chunks:
            yield from _own_document(record, query, chunks, split)
            return
        pool = [made for ctx in record.list("ctxs") if (made := _context(record, ctx)) is not None]
        gold = record.fields.get("ground_truth_ctx")
        golden = [made for ctx in (gold if isinstance(gold, list) else [gold]) if (made := _gold(record, ctx, pool))]
        if not golden:
            what = f"ground_truth_ctx is {shown(gold)}"
            record.reading.problem("missing field", what, where=record.where, fix="give its text as ctx or text")
            return
        yield from _judged(query, golden, pool, split, ranked=True)

    def _give_away(self, path: Path, chunks: dict[str, list[Any]]) -> None:
        quiet = Reading(lenient=True)  # the records are read again, and counted then
        for file in data_files(path):
            for where, fields in records(file, quiet):
                found = _place(Record(fields, where, quiet), chunks)
                answers = fields.get("answers")
                if found is not None and isinstance(answers, list) and answers:
                    document, number = found
                    chunks[document][number] = f"{chunks[document][number]} || {answers[0]}"


@dataclass(frozen=True)
class Histories(Dialect):
    """``history[]`` (user and agent by turns), ``gold_document``, ``document_list[]``: LongSeqEfficientTrainer's data.

    The last turn is the answer and no part of the query. The gold document is told by its text: the published loader
    takes the last digit of ``local_did`` for its place, which goes wrong from the tenth on.

    Args:
        turns: how a conversation becomes a query.
    """

    turns: Turns = _ALL

    name: ClassVar[str] = "histories"
    layout: ClassVar[str] = "records with history, gold_document and document_list"

    def sniff(self, path: Path) -> bool:
        first = first_record(path)
        return isinstance(first.get("history"), list) and "gold_document" in first

    def read(self, path: Path, reading: Reading) -> Stream:
        for file in data_files(path):
            split = _split_of(file, path)
            for number, (where, fields) in enumerate(records(file, reading)):
                record = Record(fields, where, reading)
                said = [turn for turn in record.list("history")[:-1] if isinstance(turn, str)]
                turns = [("assistant" if at % 2 else "user", turn) for at, turn in enumerate(said)]
                text = self.turns.render(turns) if turns else None
                query = record.query(record.get("id", "qid") or f"{_name(file.stem)}-{number}", text)
                gold = record.document(None, None, fields.get("gold_document"))
                pool = [d for text in record.list("document_list") if (d := record.document(None, None, text))]
                if query is not None and gold is not None:
                    yield from ((where, item) for item in _judged(query, [gold], pool, split, ranked=False))


def _judged(
    query: Query, golden: list[Document], pool: list[Document], split: str | None, *, ranked: bool
) -> Iterator[Item]:
    """Query, documents and grades; every document once, the gold ones first in the pool."""
    yield query
    relevant = {document.id for document in golden}
    for place, document in enumerate({document.id: document for document in [*golden, *pool]}.values(), start=1):
        yield document
        yield Judgement(query.id, document.id, JUDGED_ABOVE if document.id in relevant else JUDGED_BELOW, split)
        if ranked:
            yield Ranked(query.id, document.id, 1 / place)


def _own_document(record: Record, query: Query, chunks: dict[str, list[Any]], split: str | None) -> Iterator[Item]:
    found = _place(record, chunks)
    if found is None:
        what = f"document {shown(record.fields['document'])}, ground_truth_ctx {shown(record.get('ground_truth_ctx'))}"
        fix = f"name a document of {_DOCUMENTS}, and the gold chunk by its index"
        record.reading.problem("missing field", what, where=record.where, fix=fix)
        return
    document, gold = found
    yield query
    yield Judgement(query.id, f"{document}#{gold}", JUDGED_ABOVE, split)
    for place in range(len(chunks[document])):
        yield Ranked(query.id, f"{document}#{place}", 1 / (place + 1))


def _place(record: Record, chunks: dict[str, list[Any]]) -> tuple[str, int] | None:
    """The query's document and the gold chunk in it."""
    document, gold = _name(record.fields.get("document")), record.fields.get("ground_truth_ctx")
    index = gold.get("index") if isinstance(gold, dict) else gold
    if isinstance(index, str) and index.strip().isdecimal():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        return None
    return (document, index) if 0 <= index < len(chunks.get(document, ())) else None


def _turn(record: Record, turn: Any) -> tuple[str, str] | None:
    if isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str):
        return turn["role"].lower(), turn["content"]
    record.wrong("a message", "an object with role and content", turn)
    return None


def _context(record: Record, ctx: Any) -> Document | None:
    if isinstance(ctx, str):
        return record.document(None, None, ctx)
    if not isinstance(ctx, dict):
        record.wrong("a context", "a text, or an object with title and text", ctx)
        return None
    inner = Record(ctx, record.where, record.reading)
    return record.document(None, ctx.get("title"), inner.get("text", "ctx"))


def _gold(record: Record, ctx: Any, pool: list[Document]) -> Document | None:
    """The gold context: the one of the pool with its text, the one at its index, or one of its own."""
    text = ctx if isinstance(ctx, str) else ctx.get("ctx") or ctx.get("text") if isinstance(ctx, dict) else None
    if text is not None:
        same = next((document for document in pool if document.text == text), None)
        return same or _context(record, ctx)
    index = ctx.get("index") if isinstance(ctx, dict) else None
    return pool[index] if isinstance(index, int) and 0 <= index < len(pool) else None


def _name(document: Any) -> str:
    """A document's id in a TREC file: titles serve as ids in Doc2Dial, and hold spaces."""
    return re.sub(r"\s+", "_", str(document).strip())


def _chunks(path: Path, reading: Reading) -> dict[str, list[Any]]:
    """Document -> its chunks."""
    found = JsonParser(reading).parse("".join(read_text_chunks(path, reading)), str(path)) or {}
    made: dict[str, list[Any]] = {}
    for document, chunks in found.items():
        if isinstance(chunks, list):
            made[_name(document)] = list(chunks)
        else:
            fix = "write a list of chunks for each document"
            reading.problem("wrong type", f"{shown(document)} has {shown(chunks)}", where=path, fix=fix)
    return made
