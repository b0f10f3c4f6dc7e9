"""Files that say something of queries: the topic of each (topics.tsv), or which ones belong together (ids)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from ._lines import kind_of, read_lines
from .formats import read_queries, write_lines
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


def read_query_ids(path: str | Path) -> list[str]:
    """The ids of a file of queries or of judgements, each once: the first column of text, ids of JSON lines or Parquet.

    Raises:
        DataError: the file cannot be read, or a problem of policy.py. An id without a text is no problem here.
    """
    path = Path(path)
    if kind_of(path) in (".jsonl", ".ndjson", ".json", ".parquet", ".pq"):
        return [query for query, _ in read_queries(path)]
    return list(dict.fromkeys(line.split(None, 1)[0] for _, line in read_lines(path, Reading())))
