"""The sources of a stage merged into its supervision: in memory where they are small, else on disk and mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from .. import signals, storage
from ..errors import RecipeError
from ..names import Names, selected
from ..progress import track
from ..types import Qrels
from ._parting import Parting
from .dataset import file_hash
from .policy import Reading
from .supervision import Draw, Supervision

if TYPE_CHECKING:
    from .mixture import Mixture
    from .sources import Source

KIND = "supervision"
PART = 128 << 20  # bytes of text that are merged in memory: some 4 million rows, about 1 GiB while it is done
_VERSION = 1  # of what is kept: raise it when the same files give something else
_PACKED = {".gz": 4, ".zst": 4, ".zip": 4, ".parquet": 4, ".pq": 4}  # how much text a byte holds there
_AT_ONCE = 1 << 20  # rows


def supervise(
    mixture: Mixture, sources: Sequence[Source], *, reading: Reading | None = None, part: int = PART
) -> Supervision:
    """Read and merge the sources; documents that a corpus lacks are not trained on.

    Sources of more text than `part` are divided by query, merged part by part, and kept in the cache of the first data
    set, keyed by the content of everything that they are made from. Memory then grows with the number of queries and
    of distinct documents, not with that of rows; what is learned from is the same.

    Args:
        part: bytes.

    Raises:
        RecipeError: nothing to learn from remains.
        DataError: a problem of policy.py, or one id that stands for two texts.
    """
    count = -(-sum(_text_bytes(source.file(mixture.dataset_of(source))) for source in sources) // part)
    if count > 1:
        found = _kept(mixture, sources, reading or mixture.first.reading, count)
    else:
        found = Supervision.of([s for source in sources for s in mixture.supplies(source, reading=reading)])
        mixture.check(found.table)
    if not len(found):
        raise RecipeError(
            f"no query has a document with a target above 0 ({found.dropped} queries have none)",
            where="data", fix="check split, min_grade, grade and keep: a grade of 0 means not relevant",
        )  # fmt: skip
    return found


def _text_bytes(path: Path) -> int:
    """About how much text a file holds; none where there is no file, which its reader will say."""
    return path.stat().st_size * _PACKED.get(path.suffix, 1) if path.is_file() else 0


def _kept(mixture: Mixture, sources: Sequence[Source], reading: Reading, count: int) -> Supervision:
    cache = mixture.first.cache
    key = _key(mixture, sources, reading, cache)
    folder = cache / KIND / key
    if not storage.is_current(folder, KIND, key):
        fresh = Reading(lenient=reading.lenient)
        parting = Parting(count, folder=cache / KIND)
        streams = [mixture.supplies(source, reading=fresh, parting=parting) for source in sources]
        with storage.publish(folder, KIND, key=key) as draft:
            merge = _Merge(mixture, cache / KIND)
            for supplies in track(zip(*streams, strict=True), "merge judgements", count, "parts"):
                signals.check()
                merge.add(Supervision.explicit(supplies))
            merge.write(draft)
            draft.meta["problems"] = fresh.met()
    reading.include(storage.read_manifest(folder, KIND).meta["problems"])
    return _opened(folder)


def _key(mixture: Mixture, sources: Sequence[Source], reading: Reading, cache: Path) -> str:
    made_from = [str(_VERSION), str(reading.lenient)]
    for source in sources:
        paths = [source.file(mixture.dataset_of(source))]
        paths += [Path(source.queries)] if isinstance(source.queries, str) else []
        made_from += [repr(source), *(file_hash(path, cache=cache) for path in paths)]
    made_from += [texts.fingerprint for texts in (mixture.corpus, mixture.queries)]
    return xxhash.xxh3_128_hexdigest("\n".join(made_from).encode("utf-8", "surrogatepass"))


class _Merge:
    """Parts one after the other, and at the end all of them in the order of the ids."""

    def __init__(self, mixture: Mixture, folder: Path) -> None:
        self._mixture, self._folder = mixture, folder
        self._known = np.zeros(len(mixture.corpus), bool)  # documents that some query knows
        self._docs: list[Names] = []  # theirs, as they came
        self._rows = [np.zeros(0, np.int64)]
        self._queries: list[Names] = []
        self._sizes = [np.zeros(0, np.int64)]
        self._columns = {name: storage.Scratch(folder) for name in ("rows", "values", "grades", "always")}
        self._draws: list[_Drawn] = []
        self._whole = self._ungraded = True
        self._dropped = self._outside = 0

    def add(self, part: Supervision) -> None:
        table = part.table
        self._mixture.check(table)
        assert part.always is not None
        assert part.grades is not None
        rows = self._mixture.corpus.rows(table.docs)
        new = np.flatnonzero(~self._known[rows])
        self._known[rows] = True
        self._docs.append(selected(table.docs, new))
        self._rows.append(rows[new])
        self._queries.append(Names.of(table.queries))
        self._sizes.append(np.diff(table.offsets))
        columns = {"rows": rows[table.columns], "values": table.values, "grades": part.grades, "always": part.always}
        for name, column in columns.items():
            self._columns[name].append(column)
        self._draws = self._draws or [_Drawn(draw, self._folder) for draw in part.draws]
        for drawn, draw in zip(self._draws, part.draws, strict=True):
            drawn.add(draw, table.offsets)
        self._whole &= bool(part.always.all())
        self._ungraded &= np.array_equal(part.grades, table.values)
        self._dropped += part.dropped
        self._outside += part.outside

    def write(self, draft: storage.Draft) -> None:
        """Everything in the order of the ids, as `Supervision.of` gives it."""
        sizes, names = np.concatenate(self._sizes), _together(self._queries)
        docs, rows = _together(self._docs), np.concatenate(self._rows)
        order, by_id = names.sorting(), docs.sorting()
        column_of = np.zeros(len(self._known), np.int32)
        column_of[rows[by_id]] = np.arange(len(rows))
        _write_names(draft, "queries", selected(names, order))
        _write_names(draft, "docs", selected(docs, by_id))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[order])])
        storage.write_npy(draft.file("offsets.npy"), offsets)
        dtypes = {"rows": np.int64, "values": np.float64, "grades": np.float64, "always": np.bool_}
        left_out = {"grades": self._ungraded, "always": self._whole}
        for name, dtype in dtypes.items():
            if left_out.get(name):
                continue
            parts = _in_order(self._columns[name].mapped(dtype), sizes, order)
            if name == "rows":
                name, dtype, parts = "columns", np.int32, (column_of[part] for part in parts)
            storage.write_npy_parts(draft.file(f"{name}.npy"), parts, dtype=dtype, rows=int(offsets[-1]))
        draws = [] if self._whole else self._draws
        for number, drawn in enumerate(draws):
            drawn.write(draft, f"draw_{number}", offsets, order)
        draft.meta |= {
            "dropped": self._dropped, "outside": self._outside, "grades": not self._ungraded, "always": not self._whole,
            "draws": [[drawn.source, drawn.size] for drawn in draws],
        }  # fmt: skip


class _Drawn:
    """The rows of one `Draw`, part after part, counted from the first of their query."""

    def __init__(self, draw: Draw, folder: Path) -> None:
        self.source, self.size = draw.source, draw.size
        self._sizes, self._rows = [np.zeros(0, np.int64)], storage.Scratch(folder)

    def add(self, draw: Draw, offsets: np.ndarray) -> None:
        sizes = np.diff(draw.offsets)
        self._sizes.append(sizes)
        self._rows.append(draw.rows - np.repeat(offsets[:-1], sizes))

    def write(self, draft: storage.Draft, name: str, offsets: np.ndarray, order: np.ndarray) -> None:
        """As the rows and offsets of a `Draw` over queries in this order, whose own rows begin at `offsets`."""
        sizes = np.concatenate(self._sizes)
        own = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[order])])
        storage.write_npy(draft.file(f"{name}_offsets.npy"), own)
        within, done = _in_order(self._rows.mapped(np.int64), sizes, order), 0

        def rows() -> Iterator[np.ndarray]:
            nonlocal done
            for part in within:
                query = np.searchsorted(own, done + np.arange(len(part)), side="right") - 1
                done += len(part)
                yield part + offsets[query]

        storage.write_npy_parts(draft.file(f"{name}_rows.npy"), rows(), dtype=np.int64, rows=int(own[-1]))


def _in_order(values: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """The values of each query, so many as `sizes` says, with the queries in another order; a stretch at a time."""
    begins, ends = np.cumsum(sizes) - sizes, np.cumsum(sizes[order])
    cuts = (
        np.unique(np.append(np.searchsorted(ends, np.arange(0, ends[-1], _AT_ONCE)), len(order))) if len(order) else ()
    )
    for a, b in pairwise(cuts):
        queries = order[a:b]
        own = sizes[queries]
        first = np.repeat(begins[queries] - (np.cumsum(own) - own), own)
        yield values[first + np.arange(len(first))]


def _together(parts: Sequence[Names]) -> Names:
    import pyarrow as pa

    return Names(pa.concat_arrays([part.packed for part in parts]))


def _write_names(draft: storage.Draft, name: str, names: Names) -> None:
    text, offsets = names.to_bytes()
    storage.write_npy(draft.file(f"{name}.npy"), text)
    storage.write_npy(draft.file(f"{name}_offsets.npy"), offsets)


def _opened(folder: Path) -> Supervision:
    """Map what `_Merge` wrote."""
    meta = storage.read_manifest(folder, KIND).meta

    def array(name: str) -> np.ndarray:
        return np.asarray(storage.read_npy(folder / f"{name}.npy"))

    queries, docs = (Names.of_bytes(array(name), array(f"{name}_offsets")) for name in ("queries", "docs"))
    draws = [
        Draw(source, size, array(f"draw_{number}_offsets"), array(f"draw_{number}_rows"))
        for number, (source, size) in enumerate(meta["draws"])
    ]
    return Supervision(
        Qrels(queries, docs, array("offsets"), array("columns"), array("values")), meta["dropped"],
        array("always") if meta["always"] else None, tuple(draws), array("grades") if meta["grades"] else None,
        meta["outside"],
    )  # fmt: skip
