"""Columns of ids to codes and the unique ids, through Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE_PER_ROW, _LEAST_TABLE = 16, 1 << 20  # entries of 4 bytes, in which numeric ids are looked up


def coded(parts: Sequence[pa.Array]) -> tuple[np.ndarray, list[str]]:
    """(number of each id, the ids in order of first appearance)."""
    import pyarrow as pa

    whole = pa.chunked_array(parts)
    numbered = _numbered(whole)
    if numbered is not None:
        codes, unique = numbered
        return codes, id_strings(pa.array(unique).cast(pa.large_string()))
    coded = whole.dictionary_encode().chunks
    ids = coded[-1].dictionary  # of all chunks: it grows along them
    return np.concatenate([chunk.indices.to_numpy() for chunk in coded]), id_strings(ids)


def _numbered(ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray] | None:
    """(code of each id, the unique ids) if all are plain numbers of moderate size: a table in place of hashed strings.

    Ids that are written otherwise, as 007, are left to their spelling: None.
    """
    import pyarrow as pa
    from pyarrow import compute

    if not ids[0].as_py().isdecimal():  # most others are recognised by the first
        return None
    digits, sizes = (compute.call_function(name, [ids]).to_numpy() for name in ("ascii_is_decimal", "binary_length"))
    zero = compute.call_function("starts_with", [ids], compute.MatchSubstringOptions("0")).to_numpy()
    if not digits.all() or sizes.max() > 18 or (zero & (sizes > 1)).any():
        return None
    numbers = ids.cast(pa.int64()).to_numpy()
    if numbers.max() > max(_TABLE_PER_ROW * len(numbers), _LEAST_TABLE):
        return None
    rows = np.arange(len(numbers), dtype=np.int32)
    table = np.empty(numbers.max() + 1, np.int32)
    table[numbers[::-1]] = rows[::-1]  # the first row of each
    unique = numbers[table[numbers] == rows]
    table[unique] = rows[: len(unique)]
    return table[numbers], unique


def id_strings(ids: pa.Array) -> list[str]:
    """The ids, which hold no line end, by one split: faster than one object at a time."""
    import pyarrow as pa
    from pyarrow import compute

    whole = pa.ListArray.from_arrays(pa.array([0, len(ids)], pa.int32()), ids)
    return compute.call_function("binary_join", [whole, pa.scalar("\n", ids.type)])[0].as_py().split("\n")
