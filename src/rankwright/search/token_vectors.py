"""Sharded token vectors on disk or in memory: many rows by document id, memory-mapped, larger than RAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from .. import storage
from ..errors import ArtefactError, UsageError
from .index import DocIds
from .vectors import content_hash, max_norm, shard_name

KIND = "token-vectors"


def lengths_name(shard: int) -> str:
    return f"lengths-{shard:06d}.npy"


def spans(starts: np.ndarray, lengths: np.ndarray) -> Int[np.ndarray, " tokens"]:
    """The places ``starts[i] .. starts[i] + lengths[i] - 1`` of all i, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


class TokenVectors:
    """At least one vector per document id, in shards of float32 or float16 rows; shards may be memory-mapped.

    A shard holds the vectors of consecutive documents one after the other; `lengths` says how many each has.
    """

    def __init__(
        self, ids: Sequence[str], shards: Sequence[tuple[np.ndarray, np.ndarray]], *, best_of: int = 1
    ) -> None:
        """Token vectors that are already in memory, as (values [tokens, dim], lengths [rows]) of each shard.

        `best_of`: how many of a text's best vectors a query vector's score is the mean of.

        Raises:
            UsageError: shapes or dtypes do not fit.
        """
        self.ids, self.best_of = DocIds.of(ids), best_of
        self._place([values for values, _ in shards], [lengths for _, lengths in shards])
        if problem := self._misfit():
            raise UsageError(problem, fix="pass one float32 or float16 row per token, at least one per id")
        self._opened: storage.Manifest | None = None

    @classmethod
    def open(cls, folder: Path) -> TokenVectors:
        """Map the token vectors of a published folder, every block compared with its checksum.

        Raises:
            ArtefactError: missing, damaged or of another kind.
        """
        manifest = storage.verify(folder, KIND)
        made = object.__new__(cls)
        made.ids, made.best_of = DocIds.open(manifest.folder), int(manifest.meta.get("best_of", 1))
        count = -(-len(made.ids) // max(1, int(manifest.meta["shard_rows"])))
        parts = [[storage.read_npy(manifest.folder / name(i)) for i in range(count)] for name in _NAMES]
        made._place(*parts)
        if problem := made._misfit():
            raise ArtefactError(problem, where=folder, fix="encode again")
        made._opened = manifest
        return made

    def _place(self, shards: Sequence[np.ndarray], lengths: Sequence[np.ndarray]) -> None:
        self._shards = [np.asarray(values) for values in shards]
        self.lengths = np.concatenate([np.empty(0, np.int64), *lengths]).astype(np.int64)
        self.dim = self._shards[0].shape[-1] if self._shards else 0
        self._rows = np.cumsum([0, *map(len, lengths)])  # first row of each shard
        before = np.cumsum([0, *self.lengths])
        self._starts = before[:-1] - np.repeat(before[self._rows[:-1]], np.diff(self._rows))  # within the shard

    def _misfit(self) -> str | None:
        sums = [int(self.lengths[a:b].sum()) for a, b in zip(self._rows, self._rows[1:])]
        for values, tokens in zip(self._shards, sums):
            if values.ndim != 2 or values.shape[1] != self.dim or values.dtype not in (np.float32, np.float16):
                return f"a shard is {values.dtype} {values.shape}, expected float32 or float16 [tokens, {self.dim}]"
            if len(values) != tokens:
                return f"a shard has {len(values)} vectors, its texts have {tokens} tokens"
        if len(self.lengths) != len(self.ids) or bool((self.lengths < 1).any()):
            return f"{len(self.ids)} ids, {len(self.lengths)} texts, {int((self.lengths < 1).sum())} without a vector"
        return None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash: of what they were made from when opened, of ids and bytes when made in memory."""
        if self._opened is not None:
            return self._opened.key
        return content_hash(self.ids, [self.lengths, *self._shards])

    @cached_property
    def max_norm(self) -> float:
        """Largest Euclidean norm of a token's vector."""
        if self._opened is not None:
            return float(self._opened.meta["max_norm"])
        return max(map(max_norm, self._shards), default=0.0)

    def blocks(self, tokens: int) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """(first row, (values [tokens, dim], lengths [rows])): as many texts as have at most so many tokens, or one."""
        for shard, values in enumerate(self._shards):
            first, last = int(self._rows[shard]), int(self._rows[shard + 1])
            ends = self._starts[first:last] + self.lengths[first:last]
            begin = 0
            while begin < last - first:
                start = int(self._starts[first + begin])
                stop = max(begin + 1, int(np.searchsorted(ends, start + tokens, side="right")))
                yield first + begin, (values[start : int(ends[stop - 1])], self.lengths[first + begin : first + stop])
                begin = stop

    def take(self, row: int) -> Float[np.ndarray, "tokens dim"]:
        """The vectors of one text, as stored."""
        shard = int(np.searchsorted(self._rows, row, side="right")) - 1
        start = int(self._starts[row])
        return self._shards[shard][start : start + int(self.lengths[row])]

    def padded(self) -> Float[np.ndarray, "rows longest dim"]:
        """All of them as float32, filled up with zeros: what `LateIndex` takes as queries."""
        made = np.zeros((len(self), int(self.lengths.max(initial=1)), self.dim), np.float32)
        for row in range(len(self)):
            made[row, : self.lengths[row]] = self.take(row)
        return made


_NAMES = (shard_name, lengths_name)
