"""Rows of corpora and queries from JSON lines, TSV and Parquet, before and after the rules of policy.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ._fields import Seen, check_empty, check_id, check_text, check_title
from ._json import read_jsonl
from ._lines import PACKED, input_errors, kind_of, read_lines
from .policy import Reading, shown

_OBJECT = re.compile(r'\s*\{\s*("|\}|$)')  # an id may be "{"
ID_NAMES = ("_id", "id", "docid", "doc_id", "pid", "qid", "query_id")
TEXT_NAMES = ("text", "contents", "document_text", "query_text")
_PASSAGES = ["id", "text", "title"]  # the header of DPR's passages, whose fields are quoted as in CSV
_BATCH = 1024

Row = tuple[int, Any, Any, Any]  # record number, id, title, text as they stand in the file


class Kind(NamedTuple):
    """What a file holds: how error messages name it, and whether its records have titles."""

    id: str
    file: str
    titled: bool


CORPUS, QUERIES = Kind("document id", "corpus", True), Kind("query id", "queries", False)


def read_texts(
    path: Path, kind: Kind, reading: Reading, *, only: frozenset[str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """(id, title, text) of every record; ids are unique.

    Args:
        only: the ids that are wanted; other records are passed over unchecked. None: all.

    Raises:
        DataError: a problem of policy.py.
    """
    seen, empty = Seen(), True
    for number, key, title, text in _rows(path, reading):
        if only is not None and str(key) not in only:
            empty = False
            continue
        where = f"{path}:{number}"
        key = check_id(key, kind.id, where, reading)
        text = None if key is None else check_text(text, where, reading)
        if key is None or text is None:
            continue
        title = check_title(title, where, reading) if kind.titled else ""
        if not seen.add(key):
            what = f"the {kind.id} {shown(key)} was given before"
            reading.problem("duplicate id", what, where=where, fix="give every record its own id")
            continue
        check_empty(title, text, where, reading)
        empty = False
        yield key, title, text
    if empty:
        reading.problem(
            "empty file", "holds no record", where=path, fix=f"this should be the {kind.file}: check the path"
        )


def _rows(path: Path, reading: Reading) -> Iterator[Row]:
    suffix = kind_of(path)
    if suffix in (".parquet", ".pq"):
        return _parquet_rows(path, reading)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_rows(path, reading)
    if suffix in (".tsv", ".txt"):
        return _tsv_rows(path, reading)
    return _json_rows(path, reading) if looks_like_json(path, reading) else _tsv_rows(path, reading)


def looks_like_json(path: Path, reading: Reading) -> bool:
    """Whether the first line that is not blank opens a JSON object."""
    quiet = Reading(lenient=reading.lenient)  # the lines are read again, and counted then
    return any(_OBJECT.match(line) for _, line in _first(read_lines(path, quiet)))


def _first(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for line in lines:
        yield line
        return


def _json_rows(path: Path, reading: Reading) -> Iterator[Row]:
    for number, record in read_jsonl(path, reading):
        yield number, _get(record, ID_NAMES), record.get("title"), _get(record, TEXT_NAMES)


def _get(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if name in record), None)


def _tsv_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Columns id, text[, title], or in the order that a header line gives."""
    order: tuple[int, int | None, int] | None = None
    columns, quoted = 0, False
    for number, line in read_lines(path, reading):
        fields = line.split("\t")
        if order is None:
            header, quoted = _header(fields), fields == _PASSAGES
            order, columns = header or (0, 2 if len(fields) == 3 else None, 1), len(fields)
            if header:
                continue
            if columns not in (2, 3):
                order = None  # not a row that could say what the columns are
                _columns(fields, "2 or 3 (id, text and perhaps title)", f"{path}:{number}", reading)
                continue
        if len(fields) != columns:
            _columns(fields, f"{columns} as in the first line", f"{path}:{number}", reading)
            continue
        if quoted and '"' in line:
            fields = [_unquoted(field) for field in fields]
        key, title, text = order
        yield number, fields[key], None if title is None else fields[title], fields[text]


def _unquoted(field: str) -> str:
    """A field without the quotation marks of CSV; what is not quoted by its rules stays as it is."""
    inner = field[1:-1].replace('""', "")
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if quoted else field


def _columns(fields: list[str], expected: str, where: str, reading: Reading) -> None:
    what = f"{len(fields)} columns, expected {expected}: {shown(fields)}"
    fix = "separate columns by one tab, and write no tab inside a text"
    reading.problem("wrong number of columns", what, where=where, fix=fix)


def _header(fields: list[str]) -> tuple[int, int | None, int] | None:
    key, text = position(fields, ID_NAMES), position(fields, TEXT_NAMES)
    return None if key is None or text is None else (key, position(fields, ("title",)), text)


def position(fields: list[str], names: tuple[str, ...]) -> int | None:
    """Where the first of `names` that occurs stands among `fields`."""
    return next((fields.index(name) for name in names if name in fields), None)


def _parquet_rows(path: Path, reading: Reading) -> Iterator[Row]:
    wanted = {"id": ID_NAMES, "text": TEXT_NAMES, "title": ("title",)}
    for number, row in parquet_records(path, wanted, reading, optional="title"):
        yield number, row["id"], row.get("title"), row["text"]


def parquet_records(
    path: Path, wanted: dict[str, tuple[str, ...]], reading: Reading, *, optional: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, values of the wanted columns) of a Parquet file, a small batch at a time.

    Args:
        wanted: our name of each column -> the names it may have in the file.
        optional: our name of the column that may be absent.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix in PACKED:
        what = f"a Parquet file inside {path.suffix}"
        reading.problem("unknown format", what, where=path, fix="decompress it: Parquet compresses by itself")
    number = 0
    with input_errors(path, reading), path.open("rb") as handle:
        try:
            file = pq.ParquetFile(handle, page_checksum_verification=True)
            names = file.schema_arrow.names
            found = {ours: position(names, theirs) for ours, theirs in wanted.items()}
            for ours, at in found.items():
                if at is None and ours != optional:
                    what = f"no column {' or '.join(wanted[ours])}; it has {shown(names)}"
                    reading.problem("missing column", what, where=path, fix="rename the column")
            columns = {ours: names[at] for ours, at in found.items() if at is not None}
            for batch in file.iter_batches(_BATCH, columns=list(columns.values())):
                values = [_values(batch[name], number, path, reading) for name in columns.values()]
                for row in zip(*values):
                    number += 1
                    yield number, dict(zip(columns, row))
        except (pa.ArrowException, ValueError, KeyError) as error:  # few of Arrow's errors are OSErrors
            raise OSError(str(error)) from error


def _values(column: Any, before: int, path: Path, reading: Reading) -> list[Any]:
    """Python values of an Arrow column; its strings are not known to be UTF-8 before they are decoded."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        import pyarrow as pa

        raw = column.cast(pa.binary()).to_pylist()
        return [_decoded(value, f"{path}:{before + i}", reading) for i, value in enumerate(raw, start=1)]


def _decoded(value: bytes | None, where: str, reading: Reading) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        what = f"not UTF-8: {shown(value)}"
        reading.problem("invalid UTF-8", what, where=where, fix="save the strings as UTF-8")
        return (value or b"").decode(errors="replace")
