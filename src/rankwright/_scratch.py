"""Scratch on disk for what does not fit in memory: an unnamed file that goes with its process, whatever ends that."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from ._files import disk_errors, make_folder


class Scratch:
    """Bytes in the order in which they were appended, on the disk of a folder; the file has no name there.

    Raises:
        ResourceError: disk full, or the folder cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        make_folder(self._folder)
        with disk_errors(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self.size = 0  # bytes

    def append(self, data: bytes | memoryview | np.ndarray) -> int:
        """Append; returns where it begins."""
        raw = data.data if isinstance(data, np.ndarray) else memoryview(data)
        begin = self.size
        with disk_errors(self._folder):
            self._file.write(raw)
        self.size += raw.nbytes
        return begin

    def read(self, begin: int, size: int) -> bytes:
        """So many bytes from there."""
        with disk_errors(self._folder):
            self._file.flush()
            return os.pread(self._file.fileno(), size, begin)

    def mapped(self, dtype: np.dtype | type) -> np.ndarray:
        """All of it as values of one type, mapped and not read; nothing may be appended any more."""
        with disk_errors(self._folder):
            self._file.flush()
            if not self.size:  # a mapping of nothing is refused by the operating system
                return np.zeros(0, dtype)
            return np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
