"""Rows of qrels and runs: recognise the dialect, read blocks at once, fall back to exact rules row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..types import Qrels, Run
from ._fields import LARGEST_GRADE, NUMBER, WHOLE, check_grade, check_id, check_score, is_clean_id
from ._json import read_jsonl
from ._lines import read_blocks
from ._texts import parquet_records, position
from .policy import Reading, shown

QUERY_NAMES = ("query-id", "query_id", "qid")
DOC_NAMES = ("corpus-id", "corpus_id", "docid", "doc_id", "pid")
GRADE_NAMES = ("score", "relevance", "rel", "grade")

_FLUSH = 1 << 14
_Table = TypeVar("_Table", Run, Qrels)


class Dialect(NamedTuple):
    """Which column holds what; `rank` is None where there is none, and equals `value` where it is the score."""

    separator: str | None  # None: any white space
    columns: int
    query: int
    doc: int
    value: int
    rank: int | None = None
    header: bool = False

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
    separator = "\t" if "\t" in line else None
    fields = line.split(separator)
    query, doc, value = (position(fields, names) for names in (QUERY_NAMES, DOC_NAMES, GRADE_NAMES))
    if query is not None and doc is not None and value is not None:
        return Dialect(separator, len(fields), query, doc, value, header=True)
    if len(fields) == 3:
        return Dialect(separator, 3, 0, 1, 2)
    return TREC_QRELS if len(line.split()) == 4 else None


def run_dialect(line: str) -> Dialect | None:
    """The dialect of a run by its first line: TREC, MS MARCO, or None."""
    columns = len(line.split())
    return TREC_RUN if columns == 6 else MSMARCO_RUN.get(columns)


class Table:
    """Collects the rows of one file in columns: 8 bytes an id pair, 8 a value, 8 a line number."""

    def __init__(self, path: Path, reading: Reading, *, grades: bool) -> None:
        self.path, self.reading, self.grades = path, reading, grades
        self._queries: dict[str, int] = {}
        self._docs: dict[str, int] = {}
        self._pending: list[tuple[str, str, float, int]] = []  # rows added one by one
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    # --- rows in ---

    def read_text(self, dialect_of: Callable[[str], Dialect | None], expected: str) -> None:
        """All rows of a text file whose dialect the first fitting line tells."""
        dialect: Dialect | None = None
        for first, lines in read_blocks(self.path, self.reading):
            at = 0
            while dialect is None and at < len(lines):
                line = lines[at]
                if line and not line.isspace():
                    dialect = dialect_of(line)
                    if dialect is None:
                        self._columns(line.split(), expected, first + at)
                at += 1 if dialect is None or dialect.header else 0
            if dialect is not None and not self._add_block(lines[at:] if at else lines, first + at, dialect):
                self._add_lines(lines[at:], first + at, dialect, expected)

    def _add_block(self, lines: list[str], first: int, dialect: Dialect) -> bool:
        """Add a block in which nothing needs a second look; False, and nothing added, when something does."""
        columns = _split(lines, dialect)
        if columns is None:
            return False
        queries, docs, texts = columns[dialect.query], columns[dialect.doc], columns[dialect.value]
        if dialect.rank is not None and not all(map(WHOLE.fullmatch, columns[dialect.rank])):
            return False
        if not all(map(NUMBER.fullmatch, texts)):
            return False
        values = np.fromiter(map(float, texts), np.float64, len(texts))
        if dialect.rank == dialect.value:
            values = -values
        if not np.isfinite(values).all():
            return False
        if self.grades and ((values != np.trunc(values)) | (np.abs(values) > LARGEST_GRADE)).any():
            return False
        if not (_clean(queries, self._queries) and _clean(docs, self._docs)):
            return False
        self._append(queries, docs, values, np.arange(first, first + len(lines)))
        return True

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
            value = self._value(fields, dialect, where)
            if value is not None:
                self.add(fields[dialect.query], fields[dialect.doc], value, number)

    def _value(self, fields: list[str], dialect: Dialect, where: str) -> float | None:
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
        rows, self._pending = self._pending, []
        if rows:
            queries, docs, values, lines = zip(*rows)
            self._append(queries, docs, np.array(values), np.array(lines))

    def _append(self, queries: Sequence[str], docs: Sequence[str], values: np.ndarray, lines: np.ndarray) -> None:
        self._flush()
        q, d = _codes(queries, self._queries), _codes(docs, self._docs)
        self._parts.append((q, d, values.astype(np.float64), lines.astype(np.int64)))

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
        elif (value := check_grade(grade, where, self.reading)) is not None:
            self.add(query, doc, value, number)

    # --- table out ---

    def build(self, cls: type[_Table]) -> _Table:
        """The rows grouped by query (first appearance first), in file order within a query; no pair occurs twice."""
        self._flush()
        if not self._parts:
            what, fix = "holds no row", f"this should be a {cls.__name__.lower()} file: check the path"
            self.reading.problem("empty file", what, where=self.path, fix=fix)
            return cls.from_rows([], [], [])
        q, d, v, lines = (np.concatenate(part) for part in zip(*self._parts))
        self._parts.clear()
        keep = self._unique(q.astype(np.int64) * len(self._docs) + d, v, lines)
        q, d, v = q[keep], d[keep], v[keep]
        order = np.argsort(q, kind="stable")
        sizes = np.bincount(q, minlength=len(self._queries))
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return cls(tuple(self._queries), tuple(self._docs), offsets, d[order], v[order])

    def _unique(self, pair: np.ndarray, values: np.ndarray, lines: np.ndarray) -> np.ndarray | slice:
        """Which rows stay: of several with one pair the one with the highest value."""
        order = np.argsort(pair, kind="stable")
        new = np.concatenate([[True], pair[order][1:] != pair[order][:-1]])
        if new.all():
            return slice(None)
        leader = order[np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))]  # first row of the same pair
        names = list(self._queries), list(self._docs)
        for row, first in sorted(zip(order[~new].tolist(), leader[~new].tolist())):
            query, doc = (table[i] for table, i in zip(names, divmod(int(pair[row]), len(self._docs))))
            self._again(query, doc, bool(values[row] == values[first]), int(lines[first]), int(lines[row]))
        best = np.lexsort((np.arange(len(pair)), -values, pair))[new]
        return np.sort(best)

    def _again(self, query: str, doc: str, same: bool, first: int, number: int) -> None:
        kind = "duplicate document" if not self.grades else "duplicate pair" if same else "contradicting grades"
        what = f"query {shown(query)} and document {shown(doc)} were paired in line {first} already"
        what += ", with another grade" if kind == "contradicting grades" else ""
        self.reading.problem(kind, what, where=f"{self.path}:{number}", fix="keep one of the lines")


def _split(lines: list[str], dialect: Dialect) -> list[list[str]] | None:
    """The columns of well-formed lines, else None. No list per line: a million of them keep the collector busy."""
    separator, n = dialect.separator or " ", dialect.columns
    for attempt in range(2):
        flat = f"{separator}\n{separator}".join(lines).split(separator)
        if len(flat) == (n + 1) * len(lines) - 1 and set(flat[n :: n + 1]) <= {"\n"}:
            return [flat[i :: n + 1] for i in range(n)]
        if dialect.separator is None and attempt == 0:
            lines = [" ".join(line.split()) for line in lines]
    return None


def _clean(ids: list[str], known: dict[str, int]) -> bool:
    """Whether the ids that are not known yet are fit to be."""
    return all(name in known or is_clean_id(name) for name in set(ids))


def _codes(ids: Sequence[str], known: dict[str, int]) -> np.ndarray:
    """The number of each id, in order of first appearance; adds new ones to `known`."""
    for name in dict.fromkeys(ids):
        known.setdefault(name, len(known))
    return np.fromiter(map(known.__getitem__, ids), np.int32, len(ids))


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if name in record), None)
