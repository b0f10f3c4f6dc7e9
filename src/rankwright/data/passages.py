"""The passages of a large file that somebody asks for: streamed past once, the wanted ones kept memory-mapped."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import xxhash

from .. import storage
from ..errors import DataError
from ..progress import track
from ..types import Document
from ._texts import CORPUS, read_texts
from .corpus import KIND, Corpus
from .dataset import default_cache
from .policy import Reading


def wanted_passages(
    path: str | Path, wanted: Collection[str], reading: Reading | None = None, *, cache: str | Path | None = None
) -> Corpus:
    """The documents of these ids out of a file of DPR's passages, or any that `read_corpus` reads.

    Memory grows with what is wanted, never with the file. They are kept in `cache` for the next call, for as long as
    the file's size and time of change stay the same.

    Raises:
        DataError: a problem of policy.py.
    """
    path, reading = Path(path), reading or Reading()
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, fix="check the path") from None
    ids = frozenset(wanted)
    names = xxhash.xxh3_128_hexdigest("\n".join(sorted(ids)).encode())
    about = f"1 {path.resolve()} {state.st_size} {state.st_mtime_ns} {reading.lenient} {names}"
    key = xxhash.xxh3_128_hexdigest(about.encode())
    folder = (Path(cache) if cache else default_cache()) / "passages" / key
    if storage.is_current(folder, KIND, key):
        return Corpus.open(folder)
    rows = track(read_texts(path, CORPUS, reading, only=ids), f"read {path.name}", unit="wanted passages")
    return Corpus.build(folder, (Document(*row) for row in rows), key=key, where=path)
