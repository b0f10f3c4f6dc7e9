"""Conversations over documents: ChatRAG-Bench's layout, and histories with a gold document among a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...errors import DataError
from ...types import Document
from .._json import JsonParser
from .._lines import read_text_chunks
from ..policy import Reading, shown
from ._items import JUDGED_ABOVE, JUDGED_BELOW, Dialect, Item, Judgement, Query, Ranked, Record, Stream, data_files
from ._items import split_of as _split_of
from ._records import first_record, records
from ._turns import Turns

_DOCUMENTS = "documents.json"
_ANSWERING = ("assistant", "agent")
_LAST_FIVE, _ALL = Turns(), Turns(None, {"user": "User", "assistant": "Agent"})


@dataclass(frozen=True)
class ChatRAG(Dialect):
    """``messages[{role, content}]``, ``ground_truth_ctx``, and ``document`` with ``documents.json`` or ``ctxs[]``.

    ``documents.json`` holds the chunks of each document; those of a query's own document, or its ``ctxs``, become its
    pool in ``ranking.trec``. Chunk i of a document has the id ``<document>#<i>``. Gold chunks, one or a list, are named
    by index or by text. Turns of the assistant behind the last question are left out: they answer it.

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
        shown_as = self._given_away(path, chunks) if self.answers else chunks
        for document, texts in shown_as.items():
            for number, text in enumerate(texts):
                name = f"{document}#{number}"
                made = Record({}, f"{place}: {name}", reading).document(name, None, text)
                if made is None:
                    chunks[document][number] = None  # in no pool, and no gold chunk
                else:
                    yield str(place), made
        for file in data_files(path):
            split = _split_of(file, path)
            for number, (where, fields) in enumerate(records(file, reading)):
                record = Record(fields, where, reading)
                text = self._text(record)
                query = None if text is None else record.query(_id(record, file, number), text)
                if query is not None:
                    for item in self._items(record, query, chunks, split):
                        yield where, item

    def _text(self, record: Record) -> str | None:
        turns = [t for turn in record.list("messages") if (t := _turn(record, turn)) is not None]
        while turns and turns[-1][0] in _ANSWERING:
            turns.pop()
        if not turns:
            what = f"messages are {shown(record.fields.get('messages'))}: nobody asks"
            record.reading.problem("missing field", what, where=record.where, fix="write a message of the role user")
            return None
        return self.turns.render(turns) if turns[-1][1].strip() else ""

    def _items(self, record: Record, query: Query, chunks: dict[str, list[Any]], split: str | None) -> Iterator[Item]:
        if record.fields.get("document") is not None and chunks:
            yield from _own_document(record, query, chunks, split)
            return
        pool = [made for ctx in record.list("ctxs") if (made := _context(record, ctx)) is not None]
        gold = record.fields.get("ground_truth_ctx")
        found = [_gold(record, ctx, pool) for ctx in _each(gold)]
        golden = [document for document in found if document is not None]
        if not golden or len(golden) < len(found):
            what = f"ground_truth_ctx {shown(gold)} has no text and is none of {len(pool)} ctxs"
            fix = f"give its text as ctx or text, or a document of {_DOCUMENTS}"
            record.reading.problem("missing field", what, where=record.where, fix=fix)
            return
        yield from _judged(query, golden, pool, split, ranked=True)

    def _given_away(self, path: Path, chunks: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The chunks, answers behind the gold ones."""
        made, found = {document: list(texts) for document, texts in chunks.items()}, False
        quiet = Reading(lenient=True)  # the records are read again, and counted then
        for file in data_files(path):
            for where, fields in records(file, quiet):
                answers = fields.get("answers")
                if isinstance(answers, list) and answers:
                    document, golden = _places(Record(fields, where, quiet), chunks)
                    for number in golden:
                        found = True
                        made[document][number] = f"{made[document][number]} || {answers[0]}"
        if not found:
            what = f"no answer belongs to a gold chunk of {_DOCUMENTS}: nothing to put behind any"
            raise DataError(what, where=path, fix="leave --answers out")
        return made


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
                text = self._text(record)
                query = None if text is None else record.query(_id(record, file, number), text)
                gold = record.document(None, None, fields.get("gold_document"))
                pool = [d for text in record.list("document_list") if (d := record.document(None, None, text))]
                if query is not None and gold is not None:
                    yield from ((where, item) for item in _judged(query, [gold], pool, split, ranked=False))

    def _text(self, record: Record) -> str | None:
        said = record.list("history")
        turns = [("assistant" if at % 2 else "user", turn) for at, turn in enumerate(said[:-1])]
        for _, turn in turns:
            if not isinstance(turn, str):
                record.wrong("a turn of history", "a text", turn)
                return None
        if not turns:
            what = f"history is {shown(said)}: no turn before the last, which is the answer"
            record.reading.problem("missing field", what, where=record.where, fix="write the question before it")
            return None
        return self.turns.render(turns)


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
    document, golden = _places(record, chunks)
    if not golden:
        what = f"document {shown(record.fields['document'])}, ground_truth_ctx {shown(record.get('ground_truth_ctx'))}"
        fix = f"name a document of {_DOCUMENTS}, and each gold chunk in it by its index or its text"
        record.reading.problem("missing field", what, where=record.where, fix=fix)
        return
    yield query
    for place in golden:
        yield Judgement(query.id, f"{document}#{place}", JUDGED_ABOVE, split)
    for place, text in enumerate(chunks[document]):
        if text is not None:
            yield Ranked(query.id, f"{document}#{place}", 1 / (place + 1))


def _places(record: Record, chunks: dict[str, list[Any]]) -> tuple[str, list[int]]:
    """The query's document and the gold chunks in it; none where one of them is not there."""
    document = _name(record.fields.get("document"))
    texts = chunks.get(document, [])
    found = [_place(gold, texts) for gold in _each(record.fields.get("ground_truth_ctx"))]
    golden = [place for place in found if place is not None]
    return document, list(dict.fromkeys(golden)) if len(golden) == len(found) else []


def _place(gold: Any, texts: list[Any]) -> int | None:
    """Which of a document's chunks is gold: the one at its index, else the one with its text."""
    if (index := _index(gold)) is not None:
        return index if index < len(texts) and texts[index] is not None else None
    text = _text(gold)
    return texts.index(text) if text is not None and text in texts else None


def _each(gold: Any) -> list[Any]:
    """One gold context or several."""
    return gold if isinstance(gold, list) else [gold]


def _index(gold: Any) -> int | None:
    """Where a gold context stands, if it says so."""
    index = gold.get("index") if isinstance(gold, dict) else gold
    if isinstance(index, str) and index.strip().isdecimal():
        index = int(index)
    return index if isinstance(index, int) and not isinstance(index, bool) and index >= 0 else None


def _text(gold: Any) -> Any:
    """What a gold context says, if anything."""
    return gold if isinstance(gold, str) else gold.get("ctx") or gold.get("text") if isinstance(gold, dict) else None


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
    if (text := _text(ctx)) is not None:
        same = next((document for document in pool if document.text == text), None)
        return same or _context(record, ctx)
    index = _index(ctx)
    return pool[index] if index is not None and index < len(pool) else None


def _id(record: Record, file: Path, number: int) -> Any:
    """The query's id, made of the file's name and its place there where it has none."""
    return record.get("id", "qid") or f"{_name(file.stem)}-{number}"


def _name(document: Any) -> str:
    """A document's id in a TREC file: titles serve as ids in Doc2Dial, and hold spaces."""
    return re.sub(r"\s+", "_", str(document).strip())


def _chunks(path: Path, reading: Reading) -> dict[str, list[Any]]:
    """Document -> its chunks."""
    found, made = JsonParser(reading).value("".join(read_text_chunks(path, reading)), str(path)), dict[str, list[Any]]()
    fix = "write one object: for each document a list of chunks"
    if found is not None and not isinstance(found, dict):
        reading.problem("wrong type", f"not a JSON object: {shown(found)}", where=path, fix=fix)
    for document, chunks in found.items() if isinstance(found, dict) else ():
        if not isinstance(chunks, list):
            reading.problem("wrong type", f"{shown(document)} has {shown(chunks)}", where=path, fix=fix)
        elif _name(document) in made:
            what = f"another document is called {shown(_name(document))} too"
            reading.problem("duplicate id", what, where=path, fix="tell titles apart by more than white space")
        else:
            made[_name(document)] = list(chunks)
    return made
