"""Columns of text tables: the dialect of a line, and the rows of a whole block at once where none is in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._fields import LARGEST_GRADE, is_clean_id
from ._ids import as_numbers, stretches
from ._lines import BOM
from ._texts import position

if TYPE_CHECKING:
    import pyarrow as pa

QUERY_NAMES = ("query-id", "query_id", "qid")
DOC_NAMES = ("corpus-id", "corpus_id", "docid", "doc_id", "pid")
GRADE_NAMES = ("score", "relevance", "rel", "grade")

_PEEK = 1 << 10  # bytes that show a block's separator


class Dialect(NamedTuple):
    """Which column holds what; `rank` is None where there is none, and equals `value` where it is the score.

    `value` is None where every row has the same one, `constant`; `also` are further rows that the same line holds.
    """

    separator: str | None  # None: any white space
    columns: int
    query: int
    doc: int
    value: int | None
    rank: int | None = None
    header: bool = False
    constant: float = 0.0
    also: tuple[Dialect, ...] = ()

    def fields(self, line: str) -> list[str]:
        return line.split(self.separator)


TREC_QRELS = Dialect(None, 4, 0, 2, 3)
TREC_RUN = Dialect(None, 6, 0, 2, 4, rank=3)
MSMARCO_RUN = {3: Dialect(None, 3, 0, 1, 2, rank=2), 4: Dialect(None, 4, 0, 1, 3, rank=2)}

QRELS_EXPECTED = "3 (BEIR: query, document, score) or 4 (TREC: query, 0, document, grade)"
RUN_EXPECTED = (
    "6 (TREC: query, Q0, document, rank, score, tag) or 3 or 4 (MS MARCO: query, document, rank, perhaps score)"
)


def qrels_dialect(line: str) -> Dialect | None:
    """The dialect of a qrels file by its first line: BEIR with or without header, TREC, or None."""
    return three_columns(line) or (TREC_QRELS if len(line.split()) == 4 else None)


def three_columns(line: str) -> Dialect | None:
    """Columns that a header names, or else three: query, document, value."""
    separator = "\t" if "\t" in line else None
    fields = line.split(separator)
    query, doc, value = (position(fields, names) for names in (QUERY_NAMES, DOC_NAMES, GRADE_NAMES))
    if query is not None and doc is not None and value is not None:
        return Dialect(separator, len(fields), query, doc, value, header=True)
    return Dialect(separator, 3, 0, 1, 2) if len(fields) == 3 else None


def run_dialect(line: str) -> Dialect | None:
    """The dialect of a run by its first line: TREC, MS MARCO, or None."""
    columns = len(line.split())
    return TREC_RUN if columns == 6 else MSMARCO_RUN.get(columns)


class Rows(NamedTuple):
    """Rows that passed every check."""

    queries: pa.Array  # one a stretch of rows with the same query
    sizes: np.ndarray  # of the stretches
    docs: pa.Array  # numbers where `as_numbers` can
    values: np.ndarray  # float64
    lines: np.ndarray  # counted from the first of the block

    @classmethod
    def of(cls, queries: pa.Array, docs: pa.Array, values: np.ndarray, lines: np.ndarray) -> Rows:
        return cls(*stretches(queries), as_numbers(docs), values.astype(np.float64, copy=False), lines)


def rows_of_block(raw: bytes, dialect: Dialect, grades: bool) -> Rows | None:
    """The rows of a block in the order of its lines if they are beyond doubt, else None."""
    found = []
    for one in (dialect, *dialect.also):
        columns = _split(raw, one)
        if columns is None or (
            grades and ((columns[2] != np.trunc(columns[2])) | (np.abs(columns[2]) > LARGEST_GRADE)).any()
        ):
            return None
        found.append(columns)
    queries, docs, values = found[0] if len(found) == 1 else _interleaved(found)
    return Rows.of(queries, docs, values, np.arange(len(values)) // len(found))


def _interleaved(found: Sequence[tuple[pa.Array, pa.Array, np.ndarray]]) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """The rows of several dialects over the same lines in the order of the lines."""
    import pyarrow as pa

    queries, docs, values = zip(*found)
    order = np.arange(len(found) * len(values[0])).reshape(len(found), -1).T.ravel()
    return pa.concat_arrays(queries).take(order), pa.concat_arrays(docs).take(order), np.concatenate(values)[order]


def _split(raw: bytes, dialect: Dialect) -> tuple[pa.Array, pa.Array, np.ndarray] | None:
    """(query ids, document ids, finite values) of a block that is beyond doubt, else None."""
    import pyarrow as pa
    from pyarrow import compute, csv

    separator = b"\t" if dialect.separator is not None or b"\t" in raw[:_PEEK] else b" "
    if not _regular(raw, separator):
        if dialect.separator is not None:
            return None
        raw = b"\n".join(b" ".join(line.split()) for line in raw.split(b"\n"))  # two spaces, CR LF
        separator = b" "
        if not _regular(raw, separator):
            return None
    names, ascii_only = [str(i) for i in range(dialect.columns)], raw.isascii()
    query, doc = names[dialect.query], names[dialect.doc]
    value = None if dialect.value is None else names[dialect.value]
    types = dict.fromkeys(names, pa.large_string())
    if value is not None and dialect.rank != dialect.value:
        types[value] = pa.float64()  # takes less than NUMBER does, and infinity and NaN
    used = {query, doc} | ({value} if value else set()) | ({names[dialect.rank]} if dialect.rank is not None else set())
    convert = csv.ConvertOptions(
        column_types=types, include_columns=sorted(used) if ascii_only else names, null_values=[]
    )  # fmt: skip
    parse = csv.ParseOptions(delimiter=separator.decode(), quote_char=False, ignore_empty_lines=False)
    read = csv.ReadOptions(column_names=names, use_threads=False, block_size=len(raw) + 1)
    try:
        table = csv.read_csv(pa.BufferReader(raw), read, parse, convert)
    except pa.ArrowInvalid:
        return None
    if not ascii_only and not all(_clean(table[name]) for name in names if types[name] != pa.float64()):
        return None
    if dialect.rank is not None:
        rank = table[names[dialect.rank]]
        digits = compute.call_function("ascii_is_decimal", [rank]).to_numpy()
        if not digits.all() or compute.call_function("binary_length", [rank]).to_numpy().max() > 15:
            return None  # also what WHOLE would take: a sign
    if value is None:
        return table[query].combine_chunks(), table[doc].combine_chunks(), np.full(len(table), dialect.constant)
    values = table[value].cast(pa.float64()).to_numpy()
    if dialect.rank == dialect.value:
        values = -values
    if not np.isfinite(values).all():
        return None
    return table[query].combine_chunks(), table[doc].combine_chunks(), values


def _regular(raw: bytes, separator: bytes) -> bool:
    """Whether lines and fields are parted by one byte each and nothing else is white space or control, in ASCII."""
    codes = np.frombuffer(raw, np.uint8)
    blank = codes <= ord(" ")
    known = np.count_nonzero(codes == ord("\n")) + np.count_nonzero(codes == ord(separator))
    if known != np.count_nonzero(blank) or (blank[1:] & blank[:-1]).any():
        return False
    # Arrow would take a byte order mark at the start of a block for that of the file
    return len(raw) > 0 and not blank[0] and not raw.startswith(BOM)


def _clean(names: pa.ChunkedArray) -> bool:
    return all(map(is_clean_id, names.unique().to_pylist()))
