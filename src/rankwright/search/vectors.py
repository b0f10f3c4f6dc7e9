"""Sharded vectors on disk or in memory: rows by document id, memory-mapped, larger than RAM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .. import storage
from ..errors import ArtefactError, NonFiniteError, UsageError
from .index import DocIds


def shard_name(shard: int) -> str:
    return f"vectors-{shard:06d}.npy"


class Vectors:
    """One vector per document id, in shards of float32 or float16 rows; shards may be memory-mapped."""

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
        made.dim = int(manifest.meta["dim"])
        if problem := _misfit(made._shards, len(made.ids), made.dim):
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
        hashed = hashlib.sha256(self.ids.digest().encode())
        for shard in self._shards:
            hashed.update(np.ascontiguousarray(shard).tobytes())
        return hashed.hexdigest()

    @cached_property
    def max_norm(self) -> float:
        """Largest Euclidean norm of a row: bounds the rounding error of every score."""
        if self._opened is not None:
            return float(self._opened.meta["max_norm"])
        return max(map(max_norm, self._shards), default=0.0)

    def blocks(self, rows: int) -> Iterator[tuple[int, Float[np.ndarray, "rows dim"]]]:
        """(first row, at most `rows` rows) in order, without copying; a block never crosses a shard."""
        for start, shard in zip(self._starts, self._shards):
            for within in range(0, len(shard), rows):
                yield int(start) + within, shard[within : within + rows]

    def take(self, rows: np.ndarray) -> Float[np.ndarray, "taken dim"]:
        """The given rows, in that order, copied into memory."""
        if len(self._shards) == 1:
            return self._shards[0][rows]
        taken = np.empty((len(rows), self.dim), self._shards[0].dtype if self._shards else np.float32)
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], self._starts)
        for shard in np.flatnonzero(np.diff(bounds)):
            mine = order[bounds[shard] : bounds[shard + 1]]
            taken[mine] = self._shards[shard][rows[mine] - self._starts[shard]]
        return taken


def max_norm(values: Float[np.ndarray, "rows dim"]) -> float:
    """Largest Euclidean norm of a row, in float64."""
    largest = 0.0
    for start in range(0, len(values), 4096):
        exact = values[start : start + 4096].astype(np.float64)
        largest = max(largest, float(np.sqrt(np.einsum("nd,nd->n", exact, exact).max())))
    return largest


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


def _misfit(shards: Sequence[np.ndarray], rows: int, dim: int) -> str | None:
    for shard in shards:
        if shard.ndim != 2 or shard.shape[1] != dim or shard.dtype not in (np.float32, np.float16):
            return f"a shard is {shard.dtype} {shard.shape}, expected float32 or float16 [rows, {dim}]"
        if shard.dtype != shards[0].dtype:
            return f"shards are of {shards[0].dtype} and {shard.dtype}"
    total = sum(len(shard) for shard in shards)
    return None if total == rows else f"{rows} ids but {total} vectors"
