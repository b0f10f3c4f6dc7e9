"""Rows divided by query into parts that fit in memory; they wait on disk until each part is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from ..storage import Scratch
from ._columns import Rows

if TYPE_CHECKING:
    import pyarrow as pa


class Parting(NamedTuple):
    """Which part a query belongs to: by the hash of its id alone, so that all sources of a stage agree."""

    parts: int = 1
    prefix: str = ""  # stands before the ids where parts are told
    folder: Path = Path()  # where rows wait

    def of(self, queries: pa.Array) -> np.ndarray:
        """The part of each query (int64 [n])."""
        prefix, ids = self.prefix.encode(), queries.cast("large_binary").to_pylist()
        codes = (xxhash.xxh3_64_intdigest(prefix + name) % self.parts for name in ids)
        return np.fromiter(codes, np.int64, len(ids))


UNDIVIDED = Parting()


class Parts:
    """Rows in the order in which they come, by part, on disk."""

    def __init__(self, parting: Parting) -> None:
        self._parting, self._scratch = parting, Scratch(parting.folder)
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(parting.parts)]  # (begin, size) in the scratch

    def add(self, blocks: Sequence[Rows]) -> None:
        """Put some blocks of rows on disk."""
        rows = _joined(blocks)
        of_stretch = self._parting.of(rows.queries)
        of_row = np.repeat(of_stretch, rows.sizes)
        stretches, order = np.argsort(of_stretch, kind="stable"), np.argsort(of_row, kind="stable")
        numbers = np.arange(self._parting.parts + 1)
        bounds = np.searchsorted(of_stretch[stretches], numbers), np.searchsorted(of_row[order], numbers)
        for part, ((a, b), (c, d)) in enumerate(zip(*map(pairwise, map(np.ndarray.tolist, bounds)))):
            if b > a:
                own, chosen = stretches[a:b], order[c:d]
                packed = _packed(
                    Rows(
                        rows.queries.take(own),
                        rows.sizes[own],
                        rows.docs.take(chosen),
                        rows.values[chosen],
                        rows.lines[chosen],
                    )
                )
                self._places[part].append((self._scratch.append(packed), len(packed)))

    @property
    def empty(self) -> bool:
        return not self._scratch.size

    def rows(self, part: int) -> list[Rows]:
        """The blocks of one part."""
        return [_unpacked(self._scratch.read(begin, size)) for begin, size in self._places[part]]


def _joined(blocks: Sequence[Rows]) -> Rows:
    import pyarrow as pa

    docs = [block.docs for block in blocks]
    if len({str(ids.type) for ids in docs}) > 1:  # numbers in one block, other names in the next
        docs = [ids.cast(pa.large_string()) for ids in docs]
    queries, sizes, _, values, lines = zip(*blocks)
    arrays = (np.concatenate(column) for column in (values, lines))
    return Rows(pa.concat_arrays(queries), np.concatenate(sizes), pa.concat_arrays(docs), *arrays)


def _packed(rows: Rows) -> memoryview:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    stretches = {"queries": rows.queries, "sizes": pa.array(rows.sizes)}
    for columns in (stretches, {"docs": rows.docs, "values": pa.array(rows.values), "lines": pa.array(rows.lines)}):
        batch = pa.record_batch(columns)
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
    return memoryview(sink.getvalue())


def _unpacked(packed: bytes) -> Rows:
    import pyarrow as pa

    source = pa.BufferReader(packed)
    stretches, rows = (pa.ipc.open_stream(source).read_all().combine_chunks() for _ in range(2))
    numbers = (rows[name].to_numpy() for name in ("values", "lines"))
    return Rows(_one(stretches["queries"]), stretches["sizes"].to_numpy(), _one(rows["docs"]), *numbers)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0)
