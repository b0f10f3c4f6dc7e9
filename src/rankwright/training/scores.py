"""Teacher scores on disk: appended as they are made, each block with its checksum, found again by text content."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Float64, UInt64

from .. import storage
from ..errors import ResourceError
from ..progress import say
from ..types import Texts

_RECENT = 1 << 16  # pairs kept in a dictionary before they are sorted in


def text_keys(ids: Sequence[str], texts: Texts) -> UInt64[np.ndarray, "n 2"]:
    """128 bits for each text, from its id and its token ids: all that its scores depend on but the model."""
    values, offsets = np.asarray(texts.values, "<i8"), np.asarray(texts.offsets)
    keys = np.empty((len(ids), 2), np.uint64)
    for row, (name, begin, end) in enumerate(zip(ids, offsets[:-1], offsets[1:])):
        content = name.encode("utf-8", "surrogatepass") + b"\0" + values[begin:end].tobytes()
        keys[row] = np.frombuffer(xxhash.xxh3_128_digest(content), "<u8")
    return keys


def pair_keys(queries: UInt64[np.ndarray, "q 2"], docs: UInt64[np.ndarray, "m 2"]) -> UInt64[np.ndarray, "q m 2"]:
    """128 bits for each pair; a query and a document do not exchange their parts."""
    return _mixed(queries[:, None] + _mixed(docs + np.uint64(1))[None])


def _mixed(keys: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """The finaliser of SplitMix64 (Steele et al. 2014): one to one, every bit depends on every other."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


class ScoreStore:
    """What one teacher has said of pairs of texts; a pair that was scored twice keeps its first score.

    Every process appends to a file of its own, and reads at the start what it wrote itself in earlier sessions, and
    what single processes wrote: so a resumed process finds what it found before.
    """

    def __init__(self, folder: Path, path: Path, records: list[dict[str, Any]]) -> None:
        self.folder, self._path = folder, path
        self._recent: dict[tuple[int, int], float] = {}
        blocks = [block for block in map(_block, records) if block is not None]
        self.damaged = len(records) - len(blocks)
        self._keys = np.concatenate([np.empty((0, 2), np.uint64), *(keys for keys, _ in blocks)])
        self._values = np.concatenate([np.empty(0), *(values for _, values in blocks)])
        self._sort()

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, rank: int = 0, world: int = 1) -> Iterator[ScoreStore]:
        """The store in `folder`, made if it is not there; held until the block ends, so that files are never shared.

        Raises:
            ResourceError: no place to write.
        """
        with ExitStack() as held:
            path = _claimed(folder, f"{rank}-of-{world}", held)
            names = sorted({*folder.glob(f"{rank}-of-{world}.*.jsonl"), *folder.glob("0-of-1.*.jsonl")})
            records, broken = [], 0
            for name in names:
                lines, damaged = storage.readable_lines(name, ["pairs"])
                records, broken = records + lines, broken + damaged
            store = cls(folder, path, records)
            if broken + store.damaged:
                say(f"teacher scores: {broken + store.damaged} damaged blocks in {folder} are scored again")
            yield store

    def __len__(self) -> int:
        return len(self._values) + len(self._recent)

    def get(self, keys: UInt64[np.ndarray, "n 2"]) -> Float64[np.ndarray, " n"]:
        """The scores of pairs; NaN where there is none."""
        values = np.full(len(keys), np.nan)
        if len(self._values):
            # of equal first halves (one chance in 2^64) the first is found; another pair is scored again
            place = np.minimum(np.searchsorted(self._keys[:, 0], keys[:, 0]), len(self._keys) - 1)
            found = (self._keys[place] == keys).all(1)
            values[found] = self._values[place[found]]
        if self._recent:
            for row in np.flatnonzero(np.isnan(values)).tolist():
                values[row] = self._recent.get((int(keys[row, 0]), int(keys[row, 1])), np.nan)
        return values

    def add(self, keys: UInt64[np.ndarray, "n 2"], values: Float64[np.ndarray, " n"]) -> None:
        """Append scores of pairs to the file and remember them."""
        data = keys.astype("<u8").tobytes() + values.astype("<f8").tobytes()
        text = base64.b64encode(data).decode()
        storage.append_line(self._path, {"pairs": len(keys), "xxh3": xxhash.xxh3_64_hexdigest(data), "data": text})
        for (high, low), value in zip(keys.tolist(), values.tolist()):
            self._recent.setdefault((high, low), value)
        if len(self._recent) >= _RECENT:
            self._keys = np.concatenate([self._keys, np.array(list(self._recent), np.uint64)])
            self._values = np.concatenate([self._values, np.array(list(self._recent.values()))])
            self._recent = {}
            self._sort()

    def _sort(self) -> None:
        order = np.argsort(self._keys[:, 0], kind="stable")
        self._keys, self._values = self._keys[order], self._values[order]


def _claimed(folder: Path, name: str, held: ExitStack) -> Path:
    """A file of this name that no other living process writes to."""
    for number in range(1000):
        with suppress(ResourceError):
            held.enter_context(storage.lock(folder / f".{name}.{number}.lock", patience=0))
            return folder / f"{name}.{number}.jsonl"
    raise ResourceError("a thousand processes write teacher scores here, or none can", where=folder)


def _block(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """(keys, values) of one appended block; None when it is damaged."""
    try:
        data, pairs = base64.b64decode(record["data"], validate=True), int(record["pairs"])
        if xxhash.xxh3_64_hexdigest(data) != record["xxh3"] or len(data) != 24 * pairs:
            return None
    except (KeyError, TypeError, ValueError):
        return None
    return np.frombuffer(data[: 16 * pairs], "<u8").reshape(-1, 2), np.frombuffer(data[16 * pairs :], "<f8")
