"""The rows of one file of judgements, scores or a run: blocks at once, exact rules row by row where one is in doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..names import Names
from ..progress import track
from ..types import Qrels, Run
from ._ahead import ahead
from ._columns import DOC_NAMES, GRADE_NAMES, QUERY_NAMES, Dialect, Rows, rows_of_block
from ._fields import WHOLE, check_grade, check_id, check_score
from ._ids import coded
from ._json import read_jsonl
from ._lines import decode_block, kind_of, read_raw_blocks
from ._parting import UNDIVIDED, Parting, Parts
from ._texts import looks_like_json, parquet_records
from .policy import Reading, shown

_FLUSH = 1 << 14
_HELD = 1 << 21  # rows in memory where a table is divided
_SLACK = 0.01  # a teacher run twice in half precision, in batches of other lengths, differs by less
_Table = TypeVar("_Table", Run, Qrels)


class Table:
    """Collects the rows of one file in columns: the bytes of its ids, 8 bytes a value, 8 a line number.

    Args:
        grades: whether values are grades, else scores.
        repeats: whether a pair may be listed again with the same value.
        parting: how its rows are divided; more than one part, and they wait on disk.
    """

    def __init__(
        self, path: Path, reading: Reading, *, grades: bool, repeats: bool = False, parting: Parting = UNDIVIDED
    ) -> None:
        self.path, self.reading, self.grades, self.repeats = path, reading, grades, repeats
        self._pending: list[tuple[str, str, float, int]] = []  # rows added one by one
        self._blocks: list[Rows] = []  # lines counted from that of the file
        self._count, self._parts = parting.parts, Parts(parting) if parting.parts > 1 else None

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
                if not self._add_block(rows_of_block(raw.split(b"\n", at)[-1], dialect, self.grades), first + at):
                    self._add_lines(lines[at:], first + at, dialect, expected)
                break
        if dialect is None:
            return
        for (first, raw), rows in ahead(
            lambda block: rows_of_block(block[1], dialect, self.grades), self._told(blocks)
        ):
            if not self._add_block(rows, first):
                self._add_lines(decode_block(raw, first, self.path, self.reading), first, dialect, expected)

    def _told(self, blocks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """Progress for files that are large enough to be divided."""
        return blocks if self._parts is None else track(blocks, f"read {self.path.name}", unit="MiB")

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
        self._blocks.append(rows)
        if self._parts is not None and sum(len(block.values) for block in self._blocks) >= _HELD:
            self._lay_down(self._parts)

    def _lay_down(self, parts: Parts) -> None:
        """What is held goes to disk."""
        if self._blocks:
            parts.add(self._blocks)
            self._blocks.clear()

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

    def parts(self, cls: type[_Table]) -> Iterator[_Table]:
        """Each part's rows by query (first appearance first), in file order within a query; no pair occurs twice."""
        self._flush()
        if not self._blocks and (self._parts is None or self._parts.empty):
            what, fix = "holds no row", f"this should be a {cls.__name__.lower()} file: check the path"
            self.reading.problem("empty file", what, where=self.path, fix=fix)
        if self._parts is None:
            yield self._built(cls, self._blocks)
            return
        self._lay_down(self._parts)
        for part in range(self._count):
            yield self._built(cls, self._parts.rows(part))

    def _built(self, cls: type[_Table], blocks: list[Rows]) -> _Table:
        if not blocks:
            return cls.from_rows([], [], [])
        queries, sizes, docs, values, lines = zip(*blocks)
        blocks.clear()
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


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if name in record), None)
