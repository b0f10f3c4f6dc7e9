"""Records of SR-DPR's ByteDataset: its pickles are read opcode by opcode as plain values, nothing is ever called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...pickles import DAMAGE, Refused, follow
from .._lines import MAX_LINE
from ..policy import Reading, shown

DATA, INDEX = "data.pkl", "idxs.pkl"
_BLOCK = 1 << 16  # offsets that are decoded at once


def read_bytedataset(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, record) of every sample that ``idxs.pkl`` beside ``data.pkl`` names, one at a time.

    Strings, numbers, lists, tuples and dicts are understood. A pickle that names a class or a function, calls, or holds
    one list in two places is refused, lenient or not.

    Raises:
        DataError: such a pickle; a problem of policy.py.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for number, (begin, end) in enumerate(_spans(path, size, reading), start=1):
                where = f"{path}:{number}"
                if end - begin > MAX_LINE:
                    what = f"sample {number} is longer than {MAX_LINE:,} bytes"
                    reading.problem("long line", what, where=where, fix="write smaller samples")
                file.seek(begin)
                record = _plain(file.read(end - begin), where, reading)
                if isinstance(record, dict):
                    yield number, record
                else:
                    what = f"sample {number} is no object but {type(record).__name__}"
                    reading.problem("wrong type", what, where=where, fix="write one dict a sample")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path, fix="check the file") from None


def _spans(path: Path, size: int, reading: Reading) -> Iterator[tuple[int, int]]:
    """(first byte, one past the last) of each sample: a count of 4 bytes, then an offset of 6 each, big-endian."""
    index = path.parent / INDEX
    with index.open("rb") as file:
        count, there = int.from_bytes(file.read(4), "big"), (index.stat().st_size - 4) // 6
        if there < count:  # SR-DPR writes the whole number where it has written a part
            reading.note("samples of an index that are not there", f"{index}: {count:,} announced, {there:,} there")
        begin: int | None = None
        for first in range(0, min(count, there), _BLOCK):
            digits = np.frombuffer(file.read(6 * min(_BLOCK, count - first)), np.uint8)
            digits = digits[: len(digits) // 6 * 6].reshape(-1, 6).astype(np.int64)
            for offset in (digits << np.arange(40, -1, -8)).sum(axis=1).tolist():
                if not (begin or 0) <= offset <= size or offset == begin:
                    what = f"the offset {offset:,} is not between the one before and the size of the data, {size:,}"
                    reading.problem("corrupt file", what, where=index, fix="copy both files again")
                if begin is not None:
                    yield begin, offset
                begin = offset
        if begin is not None:
            yield begin, size


def _plain(data: bytes, where: str, reading: Reading) -> Any:
    try:
        return follow(data)
    except Refused as error:
        fix = "do not open it with anything that unpickles it; ask for the samples as JSON lines"
        raise DataError(f"the pickle {error}, which data never does", where=where, fix=fix) from None
    except DAMAGE as error:
        what = f"no whole pickle ({shown(str(error))}): {shown(data[:20])}"
        reading.problem("corrupt file", what, where=where, fix="copy both files again")
        raise
