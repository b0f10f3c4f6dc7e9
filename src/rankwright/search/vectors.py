"""Sharded vectors on disk or in memory: rows by document id, memory-mapped, larger than RAM."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .. import signals, storage
from ..errors import ArtefactError, NonFiniteError, UsageError
from ..progress import progress
from .index import DocIds

_PAIRS_AT_ONCE = 512  # of float64 rows: about 1.5 MB at dim 384, which stays in the cache
_QUANTISED_ROWS = 65536  # rows of a shard of int8


def shard_name(shard: int) -> str:
    return f"vectors-{shard:06d}.npy"


def _scales_name(shard: int) -> str:
    return f"scales-{shard:06d}.npy"


class Vectors:
    """One vector per document id, in shards of float32, float16 or int8 rows; shards may be memory-mapped.

    A row of int8 stands for the float32 vector `scale * row`, with one scale a row; `blocks` and `take` give that.
    """

    def __init__(self, ids: Sequence[str], shards: Sequence[np.ndarray]) -> None:
        """Vectors that are already in memory; `open` maps those that `encode` wrote.

        Raises:
            UsageError: shapes or dtypes do not fit. NonFiniteError: NaN or infinity among them.
        """
        self.ids, self._shards = DocIds.of(ids), [np.asarray(shard) for shard in shards]
        self._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self._shards])]).astype(np.int64)
        self.dim = self._shards[0].shape[-1] if self._shards else 0
        if problem := _misfit(self._shards, len(self.ids), self.dim):
            raise UsageError(problem, fix="pass one float32 or float16 row per id")
        self._scales: list[np.ndarray] = []  # per shard float32 [rows], when the shards are int8
        self._opened: storage.Manifest | None = None
        for shard, (start, values) in enumerate(zip(self._starts, self._shards)):
            require_finite(values, self.ids, first=int(start), shard=shard)

    @classmethod
    def open(cls, folder: Path) -> Vectors:
        """Map the vectors of a published folder, every block compared with its checksum.

        Raises:
            ArtefactError: missing, damaged or of another kind.
        """
        manifest = storage.verify(folder, "vectors")
        made = object.__new__(cls)
        made.ids = DocIds.open(manifest.folder)
        count = -(-len(made.ids) // max(1, int(manifest.meta["shard_rows"])))
        made._shards = [np.asarray(storage.read_npy(manifest.folder / shard_name(i))) for i in range(count)]
        made._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in made._shards])]).astype(np.int64)
        made.dim, made._scales, dtype = int(manifest.meta["dim"]), [], manifest.meta.get("dtype", "float32")
        if dtype == "int8":
            made._scales = [np.asarray(storage.read_npy(manifest.folder / _scales_name(i))) for i in range(count)]
        if problem := _misfit(made._shards, len(made.ids), made.dim, made._scales):
            raise ArtefactError(problem, where=folder, fix="encode again")
        made._opened = manifest
        return made

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash: of what they were made from when opened, of ids and bytes when made in memory."""
        if self._opened is not None:
            return self._opened.key
        return content_hash(self.ids, self._shards)

    @cached_property
    def max_norm(self) -> float:
        """Largest Euclidean norm of a row: bounds the rounding error of every score."""
        if self._opened is not None:
            return float(self._opened.meta["max_norm"])
        return max(map(max_norm, self._shards), default=0.0)

    def blocks(self, rows: int) -> Iterator[tuple[int, Float[np.ndarray, "rows dim"]]]:
        """(first row, at most `rows` rows) in order; a block never crosses a shard. Only int8 is copied."""
        for number, (start, shard) in enumerate(zip(self._starts, self._shards)):
            for within in range(0, len(shard), rows):
                part = slice(within, within + rows)
                yield int(start) + within, self._decoded(shard[part], number, part)

    def _decoded(self, values: np.ndarray, shard: int, rows: slice | np.ndarray) -> np.ndarray:
        if not self._scales:
            return values
        return np.multiply(values, self._scales[shard][rows, None], dtype=np.float32)

    def take(self, rows: np.ndarray) -> Float[np.ndarray, "taken dim"]:
        """The given rows, in that order, copied into memory."""
        if len(self._shards) == 1:
            return self._decoded(self._shards[0][rows], 0, rows)
        as_stored = self._shards and not self._scales
        taken = np.empty((len(rows), self.dim), self._shards[0].dtype if as_stored else np.float32)
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], self._starts)
        for shard in np.flatnonzero(np.diff(bounds)):
            mine = order[bounds[shard] : bounds[shard + 1]]
            within = rows[mine] - self._starts[shard]
            taken[mine] = self._decoded(self._shards[shard][within], int(shard), within)
        return taken

    def quantised(self, folder: Path) -> Vectors:
        """A copy in int8, published in `folder`: a quarter of float32's size, reused when unchanged.

        A component is rounded to the nearest of 255 steps of its row (absmax quantisation; Dettmers et al. 2022), so it
        is off by at most 1/254 of the row's largest. Searching the copy is exact for the rounded vectors.

        Raises:
            ResourceError: the disk is full.
        """
        key = hashlib.sha256(f"int8\x1f{self.fingerprint}".encode()).hexdigest()
        if storage.is_current(folder, "vectors", key):
            return Vectors.open(folder)
        meta = dict(self._opened.meta) if self._opened else {}
        meta |= {"rows": len(self), "dim": self.dim, "max_norm": 0.0, "dtype": "int8", "shard_rows": _QUANTISED_ROWS}
        with (
            storage.publish(folder, "vectors", key=key, meta=meta) as draft,
            progress("quantise", len(self), "docs") as bar,
        ):
            self.ids.write(draft)
            storage.require_space(folder, len(self) * (self.dim + 4))
            for shard, start in enumerate(range(0, len(self), _QUANTISED_ROWS)):
                signals.check()
                rows = self.take(np.arange(start, min(start + _QUANTISED_ROWS, len(self)))).astype(np.float32)
                scales = np.abs(rows).max(axis=1) / np.float32(127)
                steps = np.rint(rows / np.where(scales > 0, scales, 1)[:, None]).clip(-127, 127).astype(np.int8)
                storage.write_npy(draft.file(shard_name(shard)), steps)
                storage.write_npy(draft.file(_scales_name(shard)), scales)
                decoded = np.multiply(steps, scales[:, None], dtype=np.float32)
                draft.meta["max_norm"] = max(draft.meta["max_norm"], max_norm(decoded))
                bar.advance(len(rows))
        return Vectors.open(folder)


def max_norm(values: Float[np.ndarray, "rows dim"]) -> float:
    """Largest Euclidean norm of a row, in float64."""
    largest = 0.0
    for start in range(0, len(values), 4096):
        exact = values[start : start + 4096].astype(np.float64)
        largest = max(largest, float(np.sqrt(np.einsum("nd,nd->n", exact, exact).max())))
    return largest


def check_queries(queries: Float[np.ndarray, "q dim"], query_ids: Sequence[str], *, dim: int, max_norm: float) -> None:
    """The gate before a search of vectors with norms up to `max_norm`.

    Raises:
        UsageError: another shape or dtype. NonFiniteError: a query is not finite, or its scores would overflow.
    """
    if queries.ndim != 2 or queries.dtype != np.float32 or queries.shape[1] != dim:
        raise UsageError(
            f"query vectors are {queries.dtype} {list(queries.shape)}, the index holds {dim} dimensions",
            fix="encode queries with the model of the documents, as float32",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.linalg.norm(queries.astype(np.float64), axis=1) * max_norm
    bad = np.flatnonzero(~(largest < 1e37))  # not finite, or float32 scores would overflow
    if len(bad):
        raise NonFiniteError(
            f"the vector of query {query_ids[int(bad[0])]!r} (row {int(bad[0])}) is not finite or too large",
            fix="look at that text (empty?) and at the model",
        )


def content_hash(ids: DocIds, arrays: Iterable[np.ndarray]) -> str:
    """Of ids and bytes."""
    hashed = hashlib.sha256(ids.digest().encode())
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def inner_products(
    take: Callable[[np.ndarray], np.ndarray],
    queries: Float[np.ndarray, "q dim"],
    *,
    query_rows: np.ndarray,
    doc_rows: np.ndarray,
) -> Float[np.ndarray, " pairs"]:
    """Row by row in float64: a pair's score has the same bits whatever else is scored along with it."""
    exact, made = queries.astype(np.float64), np.empty(len(doc_rows), np.float64)
    for start in range(0, len(doc_rows), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        products = take(doc_rows[part]).astype(np.float64)
        products *= exact[query_rows[part]]
        made[part] = products.sum(axis=1)
    return made


def require_finite(
    values: Float[np.ndarray, "rows dim"], ids: Sequence[str], *, first: int, shard: int, where: Path | None = None
) -> None:
    """The gate before vectors are written or searched; `first` is the row of `values[0]` among `ids`.

    Raises:
        NonFiniteError: naming the first bad row's document id and shard:row.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        row = int(bad[0])
        more = f" ({len(bad) - 1} more in this shard)" if len(bad) > 1 else ""
        raise NonFiniteError(
            f"the vector of {ids[first + row]!r}, shard:row {shard}:{row}, holds NaN or infinity{more}",
            where=where,
            fix="look at that text (empty?) and at the model; values beyond 65,504 need dtype float32",
        )


def _misfit(shards: Sequence[np.ndarray], rows: int, dim: int, scales: Sequence[np.ndarray] = ()) -> str | None:
    allowed = (np.int8,) if scales else (np.float32, np.float16)
    for shard in shards:
        if shard.ndim != 2 or shard.shape[1] != dim or shard.dtype not in allowed:
            return f"a shard is {shard.dtype} {shard.shape}, expected float32 or float16 [rows, {dim}]"
        if shard.dtype != shards[0].dtype:
            return f"shards are of {shards[0].dtype} and {shard.dtype}"
    if any(scale.dtype != np.float32 or scale.shape != shard.shape[:1] for scale, shard in zip(scales, shards)):
        return "the scales of the int8 rows do not fit them"
    total = sum(len(shard) for shard in shards)
    return None if total == rows else f"{rows} ids but {total} vectors"
