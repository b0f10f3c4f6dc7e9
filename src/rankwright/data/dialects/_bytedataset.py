"""Records of SR-DPR's ByteDataset: its pickles are read opcode by opcode as plain values, nothing is ever called."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from .._lines import MAX_LINE
from ..policy import Reading, shown

DATA, INDEX = "data.pkl", "idxs.pkl"
_BLOCK = 1 << 16  # offsets that are decoded at once
_MARK = object()
_PASSED = {"PROTO", "FRAME"}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError)


class _Unsafe(Exception):
    """A pickle that asks for more than plain values."""


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
        return _value(data)
    except _Unsafe as error:
        fix = "do not open it with anything that unpickles it; ask for the samples as JSON lines"
        raise DataError(f"the pickle {error}, which data never does", where=where, fix=fix) from None
    except _DAMAGE as error:
        what = f"no whole pickle ({shown(str(error))}): {shown(data[:20])}"
        reading.problem("corrupt file", what, where=where, fix="copy both files again")
        raise


def _value(data: bytes) -> Any:
    """What a pickle of plain values holds.

    Raises:
        _Unsafe: it asks for anything else.
        ValueError, IndexError, KeyError, TypeError, OverflowError: it is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(_simple(memo[int(argument or 0)]))
        elif name in ("EMPTY_LIST", "EMPTY_TUPLE", "LIST", "TUPLE"):
            made = _since_mark(stack) if not name.startswith("EMPTY") else []
            stack.append(made if name.endswith("LIST") else tuple(made))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            taken = int(name[-1])
            stack[-taken:] = [tuple(stack[-taken:])]
        elif name in ("EMPTY_DICT", "DICT"):
            stack.append(_set({}, [] if name == "EMPTY_DICT" else _since_mark(stack)))
        elif name in ("APPEND", "APPENDS"):
            values = _since_mark(stack) if name == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = _since_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _set(_expect(stack[-1], dict), values)
        elif name == "STOP":
            (value,) = stack
            return value
        elif name not in _PASSED:
            raise _Unsafe(f"has the opcode {name}" + (f" of {shown(argument)}" if argument is not None else ""))
    raise ValueError("no end")


def _since_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1 - stack[::-1].index(_MARK)
    values = stack[at + 1 :]
    del stack[at:]
    return values


def _simple(value: Any) -> Any:
    """A remembered value; lists within themselves would be without end, and few bytes could stand for very many."""
    if isinstance(value, list | dict | tuple):
        raise _Unsafe("holds one list in two places")
    return value


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{kind.__name__} expected")
    return value


def _set(target: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
        raise ValueError("keys and values do not pair")
    target.update(zip(values[::2], values[1::2]))
    return target
