"""Records with named fields, whatever holds them: JSON lines, a JSON list, CSV, Parquet, Arrow, a ByteDataset."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import DataError
from .._json import read_json_list, read_jsonl
from .._lines import MAX_LINE, decode_block, input_errors, kind_of, read_lines, read_raw_blocks
from ..policy import Reading, shown
from ._bytedataset import DATA, read_bytedataset
from ._items import data_files

_BATCH = 256


def records(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, fields) of every record of one file, in constant memory; row numbers where there are no lines.

    Raises:
        DataError: a problem of policy.py.
    """
    suffix = kind_of(path)
    if suffix in (".parquet", ".pq", ".arrow"):
        rows = _arrow_rows(path, reading)
    elif path.name == DATA:
        rows = read_bytedataset(path, reading)
    elif suffix in (".csv", ".tsv"):
        rows = _csv_rows(path, reading, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json" and _begins_with_bracket(path, reading):
        rows = read_json_list(path, reading)
    else:
        rows = read_jsonl(path, reading)
    empty = True
    for number, row in rows:
        empty = False
        yield f"{path}:{number}", row
    if empty:
        reading.problem("empty file", "holds no record", where=path, fix="check that this is the file you meant")


def first_record(path: Path) -> dict[str, Any]:
    """The first record of a file, or of a folder's first file of rows; empty where there is none to be read."""
    with suppress(DataError, OSError):
        for file in data_files(path)[:1]:
            for _, record in records(file, Reading()):
                return record
    return {}


def first_line(path: Path) -> str:
    """The first line that is not blank, or nothing."""
    with suppress(DataError, OSError):
        for _, line in read_lines(path, Reading()):
            return line
    return ""


def _begins_with_bracket(path: Path, reading: Reading) -> bool:
    quiet = Reading(lenient=reading.lenient)  # the lines are read again, and counted then
    for _, line in read_lines(path, quiet):
        return line.lstrip().startswith("[")
    return False


def _csv_rows(path: Path, reading: Reading, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows under a header; a quoted field may hold separators and line ends."""
    lines = (
        line + "\n" for first, raw in read_raw_blocks(path, reading) for line in decode_block(raw, first, path, reading)
    )
    csv.field_size_limit(MAX_LINE)
    rows = csv.reader(lines, delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            fix = "quote fields that hold quotation marks, separators or line ends"
            reading.problem("malformed CSV", f"not CSV: {error}", where=f"{path}:{rows.line_num}", fix=fix)
            continue
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = row
            if len(set(header)) != len(header):
                what = f"a column twice: {shown(header)}"
                reading.problem("malformed CSV", what, where=f"{path}:1", fix="name each column once")
        elif len(row) != len(header):
            what = f"{len(row)} columns, expected {len(header)} as in the header: {shown(row)}"
            fix = "quote fields that hold separators or line ends"
            reading.problem("wrong number of columns", what, where=f"{path}:{rows.line_num}", fix=fix)
        else:
            yield rows.line_num, dict(zip(header, row))


def _arrow_rows(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a Parquet file, or of an Arrow stream or file as the `datasets` library saves them."""
    import pyarrow as pa

    number = 0
    with input_errors(path, reading), path.open("rb") as handle:
        try:
            for batch in _batches(path, handle):
                for piece in range(0, batch.num_rows, _BATCH):
                    for row in batch.slice(piece, _BATCH).to_pylist():
                        number += 1
                        yield number, row
        except (pa.ArrowException, ValueError, KeyError, OverflowError) as error:
            raise OSError(str(error)) from error


def _batches(path: Path, handle: Any) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".arrow":
        yield from pq.ParquetFile(handle, page_checksum_verification=True).iter_batches(_BATCH)
    elif handle.read(6) == b"ARROW1":
        file = pa.ipc.open_file(handle)
        yield from (file.get_batch(i) for i in range(file.num_record_batches))
    else:
        handle.seek(0)
        yield from pa.ipc.open_stream(handle)
