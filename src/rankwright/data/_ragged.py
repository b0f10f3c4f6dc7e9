"""Rows of different lengths in one flat memory-mapped file, with the offsets of the rows beside it."""

from __future__ import annotations

import mmap
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..errors import ArtefactError

_PENDING = 4 << 20
_HELD = 4096  # rows between letting go: each maps up to 64 KiB around it


class RaggedWriter:
    """Appends rows; made by `write_ragged`. Eight bytes a row stay in memory, the values do not."""

    def __init__(self, file: storage.FileWriter) -> None:
        self._file, self._pending = file, bytearray()
        self._size = 0
        self.offsets = array("q", [0])

    def add(self, row: bytes) -> None:
        """Append one row, given as the bytes of its values."""
        self.extend(row, [len(row)])

    def extend(self, values: bytes, sizes: Any) -> None:
        """Append rows that lie one behind the other in `values`; `sizes` are theirs in bytes."""
        self._pending += values
        ends = self._size + np.cumsum(np.asarray(sizes, np.int64))
        self.offsets.frombytes(ends.tobytes())
        self._size = self.offsets[-1]
        if len(self._pending) >= _PENDING:
            self.flush()

    def flush(self) -> None:
        self._file.write(bytes(self._pending))
        self._pending.clear()


@contextmanager
def write_ragged(draft: storage.Draft, name: str, dtype: Any) -> Iterator[RaggedWriter]:
    """Write ``<name>.bin`` (little-endian `dtype`) and ``<name>.offsets.npy`` (int64 [rows + 1]) into a draft."""
    with storage.write_file(draft.file(f"{name}.bin")) as file:
        writer = RaggedWriter(file)
        yield writer
        writer.flush()
    offsets = np.frombuffer(writer.offsets, np.int64) // np.dtype(dtype).itemsize
    storage.write_npy(draft.file(f"{name}.offsets.npy"), offsets)


class Ragged:
    """Row i is ``values[offsets[i]:offsets[i + 1]]``; both arrays are mapped, not read.

    Raises:
        ArtefactError: a file is missing, or the two do not belong together.
    """

    def __init__(self, folder: Path, name: str, dtype: Any) -> None:
        path = folder / f"{name}.bin"
        self.offsets = np.asarray(storage.read_npy(folder / f"{name}.offsets.npy"))
        dtype = np.dtype(dtype).newbyteorder("<")
        self._map: mmap.mmap | None = None
        self._handed = 0
        try:
            with path.open("rb") as file:
                if path.stat().st_size:  # a mapping of nothing is refused by the operating system
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.values = np.frombuffer(self._map or b"", dtype)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"cannot be read ({error})", where=path, fix="make the artefact again") from None
        if self.offsets.dtype != np.int64 or not len(self.offsets) or int(self.offsets[-1]) != len(self.values):
            raise ArtefactError("values and offsets do not fit", where=path, fix="make the artefact again")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, i: int) -> np.ndarray:
        self._hand_out(1)
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def text(self, i: int) -> str:
        """Row i of bytes as the text that they spell in UTF-8."""
        return self.row(i).tobytes().decode()

    def texts(self, rows: np.ndarray) -> list[str]:
        """`text` of many rows, in that order, many times as fast."""
        self._hand_out(len(rows))
        raw = self.values.data
        begins, ends = self.offsets[rows].tolist(), self.offsets[np.asarray(rows) + 1].tolist()
        return [str(raw[begin:end], "utf-8") for begin, end in zip(begins, ends)]

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(values, offsets) of the given rows, one behind the other."""
        self._hand_out(len(rows))
        begins = self.offsets[rows]
        lengths = self.offsets[np.asarray(rows) + 1] - begins
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        source = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
        return self.values[source], offsets

    def _hand_out(self, rows: int) -> None:
        """Let go of what was read: a process that has read a whole file would count it as its own memory."""
        self._handed += rows
        if self._handed >= _HELD and self._map is not None and sys.platform != "win32":
            self._handed = 0
            self._map.madvise(mmap.MADV_DONTNEED)  # the pages stay in the system's cache, and views stay valid
