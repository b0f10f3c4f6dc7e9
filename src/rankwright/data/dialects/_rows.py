"""Rows of supervision in columns, and what each id stood for: duplicates and gaps are found in little memory."""

from __future__ import annotations

from array import array
from typing import TypeVar

import numpy as np
import xxhash

from ...names import picked
from ...types import Qrels, Run
from ..policy import Reading, shown

_Table = TypeVar("_Table", Run, Qrels)


class Contents:
    """Which ids were met, and a fingerprint of what each stood for: 32 to 64 bytes an id, in open addressing."""

    def __init__(self) -> None:
        self._table, self._count = array("Q", bytes(16 * 1024)), 0  # pairs of (id, content), 0 marks a free slot

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        code = xxhash.xxh3_64_intdigest(key.encode()) or 1
        return self._table[self._place(self._table, code)] == code

    def add(self, key: str, content: str) -> bool | None:
        """None for a new id; else whether it stands for the same content as before."""
        code, print_ = xxhash.xxh3_64_intdigest(key.encode()) or 1, xxhash.xxh3_64_intdigest(content.encode())
        place = self._place(self._table, code)
        if self._table[place]:
            return self._table[place + 1] == print_
        self._table[place], self._table[place + 1] = code, print_
        self._count += 1
        if 4 * self._count > len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for i in range(0, len(old), 2):
                if old[i]:
                    at = self._place(self._table, old[i])
                    self._table[at], self._table[at + 1] = old[i], old[i + 1]
        return None

    @staticmethod
    def _place(table: array[int], code: int) -> int:
        """Where a code stands, or the free slot it would take."""
        last = len(table) - 2  # the length is a power of two
        place = (code << 1) & last
        while table[place] and table[place] != code:
            place = (place + 2) & last
        return place


class Rows:
    """(query, document, value) rows in columns, with the line that each came from."""

    def __init__(self) -> None:
        self._codes: tuple[dict[str, int], ...] = ({}, {}, {})  # of queries, documents and files
        self._names: tuple[list[str], ...] = ([], [], [])
        self._q, self._d, self._v = array("i"), array("i"), array("d")
        self._f, self._line = array("i"), array("i")

    def __len__(self) -> int:
        return len(self._q)

    def add(self, query: str, doc: str, value: float, where: str) -> None:
        """Append a row that stands at ``file:line``, or in a file without lines."""
        file, _, line = where.rpartition(":")
        if not line.isdecimal():
            file, line = where, "0"
        self._q.append(self._code(0, query))
        self._d.append(self._code(1, doc))
        self._f.append(self._code(2, file))
        self._v.append(value)
        self._line.append(min(int(line), 2**31 - 1))

    def _code(self, side: int, name: str) -> int:
        code = self._codes[side].get(name)
        if code is None:
            code = self._codes[side][name] = len(self._names[side])
            self._names[side].append(name)
        return code

    def _where(self, row: int) -> str:
        file = self._names[2][self._f[row]]
        return f"{file}:{self._line[row]}" if self._line[row] else file

    def judgements(self, reading: Reading, queries: Contents, corpus: Contents) -> Qrels:
        """Of grades that contradict each other the highest counts, when lenient."""
        pairs, values = self._pairs(), np.frombuffer(self._v, np.float64)
        order = np.argsort(pairs, kind="stable")
        first = _begins(pairs[order])
        leader = order[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))]  # first row of the same pair
        differs = np.flatnonzero(values[order] != values[leader])
        for row, before in sorted(zip(order[differs].tolist(), leader[differs].tolist())):
            query, doc = self._names[0][self._q[row]], self._names[1][self._d[row]]
            what = f"query {shown(query)} and document {shown(doc)} have grade {values[row]:g} here"
            what += f" and {values[before]:g} in {self._where(before)}"
            reading.problem("contradicting grades", what, where=self._where(row), fix="keep one of the grades")
        best = np.lexsort((np.arange(len(pairs)), -values, pairs))[first]
        return self._table(Qrels, best, values[best], reading, queries, corpus)

    def scores(self, reading: Reading, queries: Contents, corpus: Contents) -> Run:
        """Of a pair that was scored several times the mean counts: half-precision teachers do not repeat themselves."""
        pairs, values = self._pairs(), np.frombuffer(self._v, np.float64)
        order = np.argsort(pairs, kind="stable")
        begins = np.flatnonzero(_begins(pairs[order]))
        sorted_values = values[order]
        low, high = np.minimum.reduceat(sorted_values, begins), np.maximum.reduceat(sorted_values, begins)
        sizes = np.diff(np.append(begins, len(order)))
        mean = np.where(low == high, low, np.add.reduceat(sorted_values, begins) / sizes)
        return self._table(Run, order[begins], np.clip(mean, low, high), reading, queries, corpus)

    def _pairs(self) -> np.ndarray:
        docs = np.frombuffer(self._d, np.int32)
        return np.frombuffer(self._q, np.int32) * np.int64(max(len(self._names[1]), 1)) + docs

    def _table(
        self,
        cls: type[_Table],
        keep: np.ndarray,
        values: np.ndarray,
        reading: Reading,
        queries: Contents,
        corpus: Contents,
    ) -> _Table:
        """The kept rows with their values, grouped by query, in the order they came; unknown queries are left out."""
        order = np.argsort(keep)
        keep, values = keep[order], values[order]
        q, d = np.frombuffer(self._q, np.int32)[keep], np.frombuffer(self._d, np.int32)[keep]
        known = self._known(0, queries, q, keep, reading)[q]
        self._known(1, corpus, d, keep, reading)
        q, d, values = q[known], d[known], values[known]
        order = np.argsort(q, kind="stable")
        present, rows = np.unique(q[order], return_inverse=True)
        used, columns = np.unique(d[order], return_inverse=True)
        sizes = np.bincount(rows, minlength=len(present))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype(np.int64)
        names = picked(self._names[0], present), picked(self._names[1], used)
        return cls(tuple(names[0]), tuple(names[1]), offsets, columns.astype(np.int32), values[order])

    def _known(self, side: int, there: Contents, codes: np.ndarray, rows: np.ndarray, reading: Reading) -> np.ndarray:
        """Which queries (side 0) or documents (1) have a text (bool [names]); those that have none are problems."""
        names, (kind, place) = self._names[side], (("query", "queries"), ("document", "corpus"))[side]
        known = np.fromiter((name in there for name in names), bool, len(names))
        for code in np.unique(codes[~known[codes]]).tolist():
            where = self._where(int(rows[int(np.argmax(codes == code))]))
            what = f"the {kind} {shown(names[code])} is not among the {place}"
            fix = f"give the file with its text (--{place} FILE) or remove its rows"
            reading.problem(f"missing {kind}", what, where=where, fix=fix)
        return known


def _begins(ordered: np.ndarray) -> np.ndarray:
    """Where a run of equal values begins (bool [n])."""
    return np.append(True, ordered[1:] != ordered[:-1])
