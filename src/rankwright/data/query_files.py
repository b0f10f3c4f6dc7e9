"""Files that say something of queries: the topic of each (topics.tsv), or which ones belong together (ids)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from ._columns import QUERY_NAMES
from ._fields import check_id
from ._json import read_jsonl
from ._lines import kind_of, read_lines
from ._texts import looks_like_json, parquet_records
from .formats import write_lines
from .policy import Reading, shown

HEADER = ("query-id", "topic")


def read_topics(path: str | Path) -> dict[str, str]:
    """Query id -> name of its topic: two columns separated by a tab; a header ``query-id``, ``topic`` is not needed.

    Raises:
        DataError: the file cannot be read, another number of columns, a query with two topics, no query at all.
    """
    topics: dict[str, str] = {}
    for number, line in read_lines(Path(path), Reading()):
        where, columns = f"{path}:{number}", line.split("\t")
        if len(columns) != 2 or not all(column.strip() for column in columns):
            what = f"a line of topics has a query id, a tab and a topic, got {shown(line)}"
            raise DataError(what, where=where, fix="make the file by `rankwright topics`")
        if tuple(columns) == HEADER:
            continue
        if topics.setdefault(columns[0], columns[1]) != columns[1]:
            raise DataError(f"the query {shown(columns[0])} has two topics", where=where, fix="keep one of its lines")
    if not topics:
        raise DataError("holds no query", where=path, fix="make the file by `rankwright topics`")
    return topics


def write_topics(path: str | Path, topics: Iterable[tuple[str, str]]) -> None:
    """Write (query id, topic) rows as `read_topics` reads them, with a header; .gz and .zst compress."""
    write_lines(Path(path), (f"{query}\t{topic}\n" for query, topic in [HEADER, *topics]))


def read_query_ids(path: str | Path, reading: Reading | None = None) -> list[str]:
    """The ids that a file lists, each once: of JSON lines and Parquet the id field, else the first column.

    Any file of queries or of judgements will do, with or without a header; a query needs no text here.

    Raises:
        DataError: a problem of policy.py.
    """
    path, reading = Path(path), reading or Reading()
    suffix, names = kind_of(path), ("_id", "id", *QUERY_NAMES)
    json_lines = suffix in (".jsonl", ".ndjson", ".json")
    if suffix in (".parquet", ".pq"):
        ids = ((at, record["id"]) for at, record in parquet_records(path, {"id": names}, reading))
    elif json_lines or (suffix not in (".tsv", ".txt") and looks_like_json(path, reading)):
        ids = ((at, next((row[name] for name in names if name in row), None)) for at, row in read_jsonl(path, reading))
    else:
        rows = ((at, line.split(None, 1)[0]) for at, line in read_lines(path, reading) if line.split())
        ids = ((at, name) for place, (at, name) in enumerate(rows) if place or name not in names)
    found: dict[str, None] = {}
    for at, name in ids:
        checked = check_id(name, "query id", f"{path}:{at}", reading)
        if checked is not None:
            found[checked] = None
    if not found:
        reading.problem("empty file", "holds no id", where=path, fix="write one query id a line")
    return list(found)
