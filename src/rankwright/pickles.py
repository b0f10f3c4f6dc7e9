"""Follows a pickle opcode by opcode over plain values: nothing is imported, nothing is ever called."""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO, Protocol

DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError)  # what a damaged pickle leads to
_MARK = object()
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OBJECTS = {
    "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD", "POP", "EMPTY_SET", "ADDITEMS", "FROZENSET",
}  # fmt: skip


class Refused(Exception):
    """A pickle that asks for more than plain values."""


class Names(Protocol):
    """What stands for the objects that a pickle names; each method may raise `Refused`."""

    def named(self, name: str) -> Any: ...  # "module attribute"
    def called(self, what: Any, arguments: Any) -> Any: ...
    def referred(self, stated: Any) -> Any: ...  # a persistent id


def follow(stream: BinaryIO | bytes, names: Names | None = None) -> Any:
    """The next value of a stream: strings, bytes, numbers, lists, tuples, dicts.

    Args:
        names: what takes the place of objects; sets are lists then. Without it a pickle with objects is refused, one
            with keys that are no text, and one that holds a list in two places: few bytes could stand for many values.

    Raises:
        Refused: it holds something else.
        ValueError, IndexError, KeyError, TypeError, OverflowError: it is damaged (`DAMAGE`).
    """
    follower = _Follower(names)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            (value,) = follower.stack
            return value
        follower.step(opcode.name, argument)
    raise ValueError("no end")


class _Follower:
    """The stack and the memory of one pickle."""

    def __init__(self, names: Names | None) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._names = names

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _OBJECTS:
            if self._names is None:
                raise Refused(f"has the opcode {name}" + (f" of {argument!r:.100}" if argument is not None else ""))
            self._object(name, argument, self._names)
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _PUTS:
            self._memo[len(self._memo) if argument is None else int(argument)] = stack[-1]
        elif name in _GETS:
            stack.append(self._remembered(int(argument)))
        elif name in _TUPLES:
            taken = _TUPLES[name]
            stack[-taken:] = [tuple(stack[-taken:])]
        elif name in ("TUPLE", "LIST"):
            made = self._marked()
            stack.append(made if name == "LIST" else tuple(made))
        elif name == "DICT":
            made = self._marked()
            stack.append({})
            self._set(made)
        elif name in ("APPEND", "APPENDS"):
            self._extend([stack.pop()] if name == "APPEND" else self._marked())
        elif name in ("SETITEM", "SETITEMS"):
            self._set([stack.pop(-2), stack.pop()] if name == "SETITEM" else self._marked())
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"has the opcode {name}")

    def _object(self, name: str, argument: Any, names: Names) -> None:
        stack = self.stack
        if name == "GLOBAL":
            stack.append(names.named(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(names.named(f"{module} {attribute}"))
        elif name == "BINPERSID":
            stack.append(names.referred(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, what = stack.pop(), stack.pop()
            stack.append(names.called(what, arguments))
        elif name in ("BUILD", "POP"):  # BUILD: attributes, such as a state dict's metadata
            stack.pop()
        elif name == "ADDITEMS":
            self._extend(self._marked())
        else:
            stack.append([] if name == "EMPTY_SET" else self._marked())

    def _remembered(self, place: int) -> Any:
        value = self._memo[place]
        if self._names is None and isinstance(value, list | dict | tuple):
            raise Refused("holds one list in two places")
        return value

    def _marked(self) -> list[Any]:
        """The values since the last mark, taken off the stack."""
        at = next((at for at in range(len(self.stack) - 1, -1, -1) if self.stack[at] is _MARK), None)
        if at is None:
            raise ValueError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _extend(self, values: list[Any]) -> None:
        if self._into(list):
            self.stack[-1].extend(values)

    def _set(self, items: list[Any]) -> None:
        # data have keys of text; of others, hashing a tuple of tuples of the same tuple takes a time without end
        plain = str if self._names is None else str | int | float | bytes | None
        for key in items[::2]:
            if not isinstance(key, plain):
                raise Refused(f"has a key that is a {type(key).__name__}")
        if self._into(dict):
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _into(self, kind: type) -> bool:
        """Whether the value on top takes values; what stands for an object need not."""
        fits = type(self.stack[-1]) is kind
        if not fits and self._names is None:
            raise ValueError(f"{kind.__name__} expected")
        return fits
