"""Questions with their answers, as open-domain question answering keeps them: TSV, CSV, JSON or JSON lines."""

from __future__ import annotations

import ast
import csv
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

from ._fields import check_id, check_text
from ._json import read_json_list, read_jsonl
from ._lines import MAX_LINE, kind_of, read_lines
from ._texts import ID_NAMES, position
from .corpus import Corpus
from .formats import write_lines
from .policy import Reading, shown

_IDS = (*ID_NAMES, "query-id", "question_id")
_TEXTS = ("question", "query", "text")
_ANSWERS = ("answers", "answer", "possible_answers")
_TITLE = re.compile(r"\[[\w .-]*\].*")  # brackets around words: no list of strings that lost a quotation mark


class Question(NamedTuple):
    """A question and what answers it; `text` is None where nothing says it."""

    text: str | None
    answers: tuple[str, ...]


class QuestionRecord(NamedTuple):
    """One record of a file: its id or its text may be missing, not both."""

    id: str | None
    text: str | None
    answers: list[str]


def read_answers(
    path: str | Path, reading: Reading | None = None, *, queries: Corpus | None = None
) -> dict[str, tuple[str, ...]]:
    """Query id -> its answers, see `read_questions`."""
    return {key: question.answers for key, question in read_questions(path, reading, queries=queries).items()}


def read_questions(
    path: str | Path, reading: Reading | None = None, *, queries: Corpus | None = None
) -> dict[str, Question]:
    """Query id -> question; one that occurs again adds its answers.

    A record without an id belongs to the query with its text. Without queries to find it among, its place in the file,
    counted from 0, is its id, as Pyserini numbers DPR's questions.

    Args:
        queries: of the data set that the questions belong to.

    Raises:
        DataError: a problem of policy.py; a question that is not among the queries is one.
    """
    path, reading = Path(path), reading or Reading()
    found: dict[str, tuple[str | None, dict[str, None]]] = {}
    by_text: dict[str, str] | None = None
    for place, (where, record) in enumerate(question_records(path, reading)):
        key = record.id
        if key is None and queries is None:
            key = str(place)
        elif key is None:
            by_text = by_text or {query.text.strip(): query.id for query in queries or ()}
            key = by_text.get((record.text or "").strip())
        row = None if queries is None or key is None else queries.row(key)
        if key is None or (queries is not None and row is None):
            what = f"the question {shown(record.text or record.id)} is not among the queries"
            reading.problem("missing query", what, where=where, fix="add it to the queries, or remove the record")
            continue
        text = record.text if queries is None or row is None else queries[row].text
        found.setdefault(key, (text, {}))[1].update(dict.fromkeys(record.answers))
    if not found:
        reading.problem("empty file", "holds no question with answers", where=path, fix="check the path")
    return {key: Question(text, tuple(answers)) for key, (text, answers) in found.items()}


def write_retrieved(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write retrieval output as DPR does: one JSON list of ``question, answers, ctxs``, a question a line.

    Args:
        records: ``ctxs`` are objects of ``id, title, text, score, has_answer``, best first; the score is a number.
    """
    marks = chain([""], repeat(","))
    lines = (f"{mark}\n{json.dumps(record, ensure_ascii=False)}" for mark, record in zip(marks, records))
    write_lines(path, chain("[", lines, ["\n]\n"]))


def question_records(path: Path, reading: Reading) -> Iterator[tuple[str, QuestionRecord]]:
    """(file:line, record) of every record that can be read.

    Raises:
        DataError: while iterating, a problem of policy.py.
    """
    suffix = kind_of(path)
    rows = _json_rows(path, reading) if suffix in (".json", ".jsonl", ".ndjson") else _table_rows(path, reading)
    for number, key, text, value in rows:
        where = f"{path}:{number}"
        answers = _answers(value, where, reading)
        if key is not None:
            key = check_id(str(key) if type(key) is int else key, "query id", where, reading)
        if answers is None or (key is None and not isinstance(text, str)):
            if answers is not None:
                reading.problem("missing field", "neither id nor question", where=where, fix="give the record one")
            continue
        yield where, QuestionRecord(key, text if isinstance(text, str) else None, answers)


def _json_rows(path: Path, reading: Reading) -> Iterator[tuple[int, Any, Any, Any]]:
    first = next((line for _, line in read_lines(path, Reading(lenient=reading.lenient))), "")
    records = read_json_list(path, reading) if first.lstrip().startswith("[") else read_jsonl(path, reading)
    for number, record in records:
        key, text, answers = (
            next((record[n] for n in names if n in record), None) for names in (_IDS, _TEXTS, _ANSWERS)
        )
        yield number, key, text, answers


def _table_rows(path: Path, reading: Reading) -> Iterator[tuple[int, Any, Any, Any]]:
    """DPR's two columns, question and answers, or any that a header names; tabs separate them, else commas."""
    places: tuple[int | None, int | None, int] | None = None
    columns, separator = 2, "\t"
    csv.field_size_limit(MAX_LINE)
    for number, line in read_lines(path, reading):
        where = f"{path}:{number}"
        if places is None:
            separator = "\t" if "\t" in line else ","
        try:
            row = next(csv.reader([line], delimiter=separator, strict=True))
        except csv.Error as error:
            fix = "quote fields that hold quotation marks or separators, and double the marks inside"
            reading.problem("malformed CSV", f"not CSV: {error}", where=where, fix=fix)
            continue
        if places is None:
            answers = position(row, _ANSWERS)
            places = (None, 0, 1) if answers is None else (position(row, _IDS), position(row, _TEXTS), answers)
            if answers is not None:
                columns = len(row)
                continue
        if len(row) != columns:
            what = f"{len(row)} columns, expected {columns}: {shown(row)}"
            fix = "write question and answers, or name the columns by a header"
            reading.problem("wrong number of columns", what, where=where, fix=fix)
            continue
        key, text, answers = (None if place is None else row[place] for place in places)
        yield number, key, text, answers


def _answers(value: Any, where: str, reading: Reading) -> list[str] | None:
    """A list of answers, also as a table holds it; one that is no list is the only answer. None: lenient skips it."""
    given = _listed(value) if isinstance(value, str) else value
    if isinstance(given, list) and given and all(isinstance(answer, str) for answer in given):
        return [text for answer in given if (text := check_text(answer, where, reading)) is not None]
    if given is None or given == []:
        reading.problem("missing field", "the answers are missing", where=where, fix="give the question its answers")
    else:
        what = f"the answers are no list of strings: {shown(value)}"
        reading.problem("wrong type", what, where=where, fix='write ["one answer", "another"]')
    return None


def _listed(text: str) -> Any:
    """A list as JSON or Python writes it, read as data; a text that does not begin like one is the only answer.

    What only looks like a list stays text: no list of strings, but for titles such as ``[REC]``.
    """
    if not text.lstrip().startswith("["):
        return [text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings(action="ignore"):  # of patterns such as '\\d', which mean what they say
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text] if _TITLE.fullmatch(text.strip()) else text
