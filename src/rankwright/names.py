"""Many names held as their UTF-8 bytes: a name becomes a Python string only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_AT_ONCE = 1 << 16  # names that become strings together


class Names(Sequence[str]):
    """Names as one Arrow array of bytes: a million of them is packed, compared and sorted without a million objects.

    Equal to any sequence of the same strings.
    """

    def __init__(self, packed: pa.Array) -> None:
        """`packed`: UTF-8 as large_binary, without nulls."""
        self.packed = packed

    @classmethod
    def of(cls, names: Sequence[str]) -> Names:
        """Pack names; what is packed already stays as it is."""
        if isinstance(names, Names):
            return names
        import pyarrow as pa

        if isinstance(names, tuple | list):
            return cls(_packed(names))
        parts = [_packed(names[start : start + _AT_ONCE]) for start in range(0, len(names), _AT_ONCE)]
        return cls(pa.concat_arrays(parts) if parts else _packed([]))

    @classmethod
    def of_bytes(cls, text: np.ndarray, offsets: np.ndarray) -> Names:
        """Name i is ``text[offsets[i]:offsets[i + 1]]`` (uint8, int64); nothing is copied, so both may be mapped."""
        import pyarrow as pa

        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
        return cls(pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers))

    def to_bytes(self) -> tuple[np.ndarray, np.ndarray]:
        """(text, offsets) as `of_bytes` takes them."""
        _, offsets, text = self.packed.buffers()
        where = (
            np.frombuffer(offsets, np.int64)[self.packed.offset :][: len(self) + 1] if len(self) else np.zeros(1, int)
        )
        text = np.frombuffer(text, np.uint8) if text is not None else np.empty(0, np.uint8)
        return text[where[0] : where[-1]], where - where[0] if where[0] else where

    def __len__(self) -> int:
        return len(self.packed)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return _strings(self.packed[row])
        return self.packed[row].as_py().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.packed.equals(other.packed)
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Names({self[:3]}{'' if len(self) <= 3 else f' and {len(self) - 3:,} more'})"

    def find(self, names: Sequence[str]) -> np.ndarray:
        """int64 [names]: the place of each here (the first, should it be here twice), -1 where there is none."""
        from pyarrow import compute

        options = compute.SetLookupOptions(value_set=self.packed)
        found = compute.call_function("index_in", [Names.of(names).packed], options)
        return found.fill_null(-1).to_numpy().astype(np.int64)

    def sorting(self) -> np.ndarray:
        """int64 [names]: the places in bytewise order of their names, equal ones in their own order."""
        from pyarrow import compute

        return compute.call_function("array_sort_indices", [self.packed]).to_numpy().astype(np.int64)


def selected(names: Sequence[str], rows: np.ndarray) -> Names:
    """The names at these places, packed."""
    return Names(names.packed.take(rows)) if isinstance(names, Names) else Names.of(picked(names, rows))


def picked(names: Sequence[str], rows: np.ndarray) -> list[str]:
    """The names at these places."""
    return selected(names, rows)[:] if isinstance(names, Names) else list(map(names.__getitem__, rows.tolist()))


def bytewise(names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """int64 [rows]: where the name at each place stands among those at the others, ordered as UTF-8 bytes."""
    unique, inverse = np.unique(rows, return_inverse=True)
    place = np.empty(len(unique), np.int64)
    place[selected(names, unique).sorting()] = np.arange(len(unique))
    return place[inverse]


def _packed(names: Sequence[str]) -> pa.Array:
    import pyarrow as pa
    from pyarrow import compute

    text = pa.scalar("\n".join(names).encode("utf-8", "surrogatepass"), pa.large_binary())
    packed = compute.call_function("split_pattern", [text], compute.SplitPatternOptions("\n")).values
    if len(packed) == len(names):  # half the time of an array of strings that lie scattered in memory
        return packed
    return pa.array([name.encode("utf-8", "surrogatepass") for name in names], pa.large_binary())


def _strings(packed: pa.Array) -> list[str]:
    import pyarrow as pa

    try:
        return packed.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        return [name.decode("utf-8", "surrogatepass") for name in packed.to_pylist()]
