"""Columns of ids to codes and the unique ids, through Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..names import Names

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE_PER_ROW, _LEAST_TABLE = 16, 1 << 20  # entries of 4 bytes, in which numeric ids are looked up
_MOST_DIGITS = 18  # that surely fit 64 bits


def as_numbers(ids: pa.Array) -> pa.Array:
    """Ids (large_string) as int64 if all are plain numbers; as they are where one is written otherwise, as 007 is."""
    import pyarrow as pa
    from pyarrow import compute

    if not len(ids) or not ids[0].as_py().isdecimal():  # most others are recognised by the first
        return ids
    digits, sizes = (
        compute.call_function(name, [ids]).to_numpy(False) for name in ("ascii_is_decimal", "binary_length")
    )
    zero = compute.call_function("starts_with", [ids], compute.MatchSubstringOptions("0")).to_numpy(False)
    if not digits.all() or sizes.max() > _MOST_DIGITS or (zero & (sizes > 1)).any():
        return ids
    return ids.cast(pa.int64())


def stretches(ids: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """(ids, rows of each) where an id that is repeated row after row is named once."""
    from pyarrow import compute

    encoded = compute.call_function("run_end_encode", [ids])
    return encoded.values, np.diff(encoded.run_ends.to_numpy(), prepend=0)


def coded(parts: Sequence[pa.Array]) -> tuple[np.ndarray, Names]:
    """(number of each id, the ids in order of first appearance) of one column, perhaps `as_numbers`."""
    import pyarrow as pa

    numbers = _numbers(parts)
    if numbers is not None:
        codes, unique = _numbered(numbers)
        return codes, Names(_text(pa.array(unique)).cast(pa.large_binary()))
    coded = pa.chunked_array([_text(part) for part in parts]).dictionary_encode().chunks
    ids = coded[-1].dictionary  # of all chunks: it grows along them
    return np.concatenate([chunk.indices.to_numpy() for chunk in coded]), Names(ids.cast(pa.large_binary()))


def _numbers(parts: Sequence[pa.Array]) -> np.ndarray | None:
    """All as one array if they are numbers of moderate size."""
    if any(part.type != "int64" for part in parts):
        return None
    numbers = np.concatenate(parts)
    return numbers if numbers.max() <= max(_TABLE_PER_ROW * len(numbers), _LEAST_TABLE) else None


def _text(ids: pa.Array) -> pa.Array:
    import pyarrow as pa

    return ids.cast(pa.large_string())


def _numbered(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(code of each number, the unique ones): a table in place of hashed strings."""
    rows = np.arange(len(numbers), dtype=np.int32)
    table = np.empty(numbers.max() + 1, np.int32)
    table[numbers[::-1]] = rows[::-1]
    first = table[numbers]  # row in which the number of each row occurs first
    new = first == rows
    return (np.cumsum(new, dtype=np.int32) - 1)[first], numbers[new]
