"""Rows of qrels and runs: recognise the dialect, read blocks at once, fall back to exact rules row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..names import Names
from ..types import Qrels, Run
from ._ahead import ahead
from ._fields import LARGEST_GRADE, WHOLE, check_grade, check_id, check_score, is_clean_id
from ._ids import as_numbers, coded, stretches
from ._json import read_jsonl
from ._lines import BOM, decode_block, kind_of, read_raw_blocks
from ._texts import looks_like_json, parquet_records, position
from .policy import Reading, shown

if TYPE_CHECKING:
    import pyarrow as pa

QUERY_NAMES = ("query-id", "query_id", "qid")
DOC_NAMES = ("corpus-id", "corpus_id", "docid", "doc_id", "pid")
GRADE_NAMES = ("score", "relevance", "rel", "grade")

_FLUSH = 1 << 14
_PEEK = 1 << 10  # bytes that show a block's separator
_SLACK = 0.01  # a teacher run twice in half precision, in batches of other lengths, differs by less
_Table = TypeVar("_Table", Run, Qrels)


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


class Table:
    """Collects the rows of one file in columns: the bytes of its ids, 8 bytes a value, 8 a line number.

    Args:
        grades: whether values are grades, else scores.
        repeats: whether a pair may be listed again with the same value.
    """

    def __init__(self, path: Path, reading: Reading, *, grades: bool, repeats: bool = False) -> None:
        self.path, self.reading, self.grades, self.repeats = path, reading, grades, repeats
        self._pending: list[tuple[str, str, float, int]] = []  # rows added one by one
        self._parts: list[Rows] = []  # lines counted from that of the file

    # --- rows in ---

    def read(self, dialect_of: Callable[[str], Dialect | None], expected: str) -> None:
        """All rows of a file: Parquet or JSON lines by its name or its look, else text."""
        suffix = kind_of(self.path)
        if suffix in (".parquet", ".pq"):
            self.read_parquet()
        elif suffix in (".jsonl", ".ndjson", ".json") or (
            suffix not in (".tsv", ".txt") and looks_like_json(self.path, self.reading)
        ):
            self.read_jsonl()
        else:
            self.read_text(dialect_of, expected)

    def read_text(self, dialect_of: Callable[[str], Dialect | None], expected: str) -> None:
        """All rows of a text file whose dialect the first fitting line tells."""
        blocks = read_raw_blocks(self.path, self.reading)
        dialect: Dialect | None = None
        for first, raw in blocks:
            lines = decode_block(raw, first, self.path, self.reading)
            dialect, at = self._dialect(lines, first, dialect_of, expected)
            if dialect is not None:
                if not self._add_block(_rows(raw.split(b"\n", at)[-1], dialect, self.grades), first + at):
                    self._add_lines(lines[at:], first + at, dialect, expected)
                break
        if dialect is None:
            return
        for (first, raw), rows in ahead(lambda block: _rows(block[1], dialect, self.grades), blocks):
            if not self._add_block(rows, first):
                self._add_lines(decode_block(raw, first, self.path, self.reading), first, dialect, expected)

    def _dialect(
        self, lines: list[str], first: int, dialect_of: Callable[[str], Dialect | None], expected: str
    ) -> tuple[Dialect | None, int]:
        """The dialect that the first fitting line tells, and how many lines are done with."""
        for at, line in enumerate(lines):
            if line and not line.isspace():
                dialect = dialect_of(line)
                if dialect is not None:
                    return dialect, at + dialect.header
                self._columns(line.split(), expected, first + at)
        return None, len(lines)

    def _add_block(self, rows: Rows | None, first: int) -> bool:
        """Add a block in which nothing needs a second look; False, and nothing added, when something does."""
        if rows is not None:
            self._append(rows._replace(lines=rows.lines + first))
        return rows is not None

    def _add_lines(self, lines: list[str], first: int, dialect: Dialect, expected: str) -> None:
        """Add a block row by row, every rule spelled out."""
        for number, line in enumerate(lines, start=first):
            if not line or line.isspace():
                continue
            fields = dialect.fields(line)
            if len(fields) != dialect.columns:
                self._columns(fields, f"{dialect.columns}, as in the lines before; a file has {expected}", number)
                continue
            where = f"{self.path}:{number}"
            for one in (dialect, *dialect.also):
                value = self._value(fields, one, where)
                if value is not None:
                    self.add(fields[one.query], fields[one.doc], value, number)

    def _value(self, fields: list[str], dialect: Dialect, where: str) -> float | None:
        if dialect.value is None:
            return dialect.constant
        if dialect.rank is not None and not WHOLE.fullmatch(rank := fields[dialect.rank]):
            what = f"the rank {shown(rank)} is not a whole number"
            self.reading.problem("bad rank", what, where=where, fix="write ranks as 1, 2, 3, ...")
            if dialect.rank == dialect.value:
                return None
        if dialect.rank == dialect.value:
            return -float(fields[dialect.value])
        check = check_grade if self.grades else check_score
        return check(fields[dialect.value], where, self.reading)

    def _columns(self, fields: list[str], expected: str, number: int) -> None:
        what = f"{len(fields)} columns, expected {expected}: {shown(' '.join(fields))}"
        fix = "check that this is the file you meant, and its separators"
        self.reading.problem("wrong number of columns", what, where=f"{self.path}:{number}", fix=fix)

    def add(self, query: Any, doc: Any, value: float, number: int) -> None:
        """Add one row whose value is checked and whose ids are not."""
        where = f"{self.path}:{number}"
        query = check_id(query, "query id", where, self.reading)
        doc = None if query is None else check_id(doc, "document id", where, self.reading)
        if query is not None and doc is not None:
            self._pending.append((query, doc, value, number))
            if len(self._pending) == _FLUSH:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        rows, self._pending = self._pending, []
        if rows:
            queries, docs, values, lines = zip(*rows)
            kind = pa.large_string()
            self._append(Rows.of(pa.array(queries, kind), pa.array(docs, kind), np.array(values), np.array(lines)))

    def _append(self, rows: Rows) -> None:
        self._flush()
        self._parts.append(rows)

    def read_jsonl(self) -> None:
        """Qrels from JSON lines: ``qid``, and ``docid`` and ``score`` as lists of equal length or as single values."""
        for number, record in read_jsonl(self.path, self.reading):
            where = f"{self.path}:{number}"
            query, docs, grades = (_first(record, names) for names in (QUERY_NAMES, DOC_NAMES, GRADE_NAMES))
            if isinstance(docs, list) != isinstance(grades, list):
                what = "docid and score must both be lists, or neither"
                self.reading.problem("wrong type", what, where=where, fix="write one score per document")
                continue
            if not isinstance(docs, list) or not isinstance(grades, list):
                docs, grades = [docs], [grades]
            if len(docs) != len(grades):
                what = f"{len(docs)} documents but {len(grades)} scores"
                self.reading.problem("wrong number of columns", what, where=where, fix="write one score per document")
                continue
            for doc, grade in zip(docs, grades):
                self._add_grade(query, doc, grade, number)

    def read_parquet(self) -> None:
        """Qrels from Parquet with columns for query, document and score."""
        wanted = {"query": QUERY_NAMES, "doc": DOC_NAMES, "grade": GRADE_NAMES}
        for number, row in parquet_records(self.path, wanted, self.reading):
            self._add_grade(row["query"], row["doc"], row["grade"], number)

    def _add_grade(self, query: Any, doc: Any, grade: Any, number: int) -> None:
        where = f"{self.path}:{number}"
        if grade is None:
            self.reading.problem("missing field", "the score is missing", where=where, fix="give the pair its score")
        elif isinstance(grade, str):
            what = f"the score is no number but {shown(grade)}"
            self.reading.problem("wrong type", what, where=where, fix="write scores as numbers")
        elif (value := (check_grade if self.grades else check_score)(grade, where, self.reading)) is not None:
            self.add(query, doc, value, number)

    # --- table out ---

    def build(self, cls: type[_Table]) -> _Table:
        """The rows grouped by query (first appearance first), in file order within a query; no pair occurs twice."""
        self._flush()
        if not self._parts:
            what, fix = "holds no row", f"this should be a {cls.__name__.lower()} file: check the path"
            self.reading.problem("empty file", what, where=self.path, fix=fix)
            return cls.from_rows([], [], [])
        queries, sizes, docs, values, lines = zip(*self._parts)
        self._parts.clear()
        (stretch, query_ids), (d, doc_ids) = coded(queries), coded(docs)
        q, v = np.repeat(stretch, np.concatenate(sizes)), np.concatenate(values)
        pair = q.astype(np.int64) * len(doc_ids) + d
        ordered = np.sort(pair, kind="stable")  # the faster one: a run lists query after query
        if (ordered[1:] == ordered[:-1]).any():
            keep = self._unique(pair, v, np.concatenate(lines), (query_ids, doc_ids))
            q, d, v = q[keep], d[keep], v[keep]
        sizes = np.bincount(q, minlength=len(query_ids))
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        if (q[1:] < q[:-1]).any():
            order = np.argsort(q, kind="stable")
            d, v = d[order], v[order]
        return cls(tuple(query_ids), doc_ids, offsets, d, v)

    def _unique(self, pair: np.ndarray, values: np.ndarray, lines: np.ndarray, names: Sequence[Names]) -> np.ndarray:
        """Which rows stay: of several with one pair the one with the highest value."""
        order = np.argsort(pair, kind="stable")
        new = np.concatenate([[True], pair[order][1:] != pair[order][:-1]])
        leader = order[np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))]  # first row of the same pair
        again = ~new
        if self.repeats:
            base = values[leader]
            again &= np.abs(values[order] - base) > (0.0 if self.grades else _SLACK * (1 + np.abs(base)))
        for row, first in sorted(zip(order[again].tolist(), leader[again].tolist())):
            query, doc = (table[i] for table, i in zip(names, divmod(int(pair[row]), len(names[1]))))
            self._again(query, doc, bool(values[row] == values[first]), int(lines[first]), int(lines[row]))
        best = np.lexsort((np.arange(len(pair)), -values, pair))[new]
        return np.sort(best)

    def _again(self, query: str, doc: str, same: bool, first: int, number: int) -> None:
        if self.grades:
            kind = "duplicate pair" if same else "contradicting grades"
        else:
            kind = "contradicting scores" if self.repeats else "duplicate document"
        what = f"query {shown(query)} and document {shown(doc)} were paired in line {first} already"
        what += f", with another {kind.split()[1][:-1]}" if kind.startswith("contradicting") else ""
        self.reading.problem(kind, what, where=f"{self.path}:{number}", fix="keep one of the lines")


def _rows(raw: bytes, dialect: Dialect, grades: bool) -> Rows | None:
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


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if name in record), None)
