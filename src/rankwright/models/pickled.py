"""Reads the tensors of a torch checkpoint without unpickling it: opcodes are looked at, nothing is ever called."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import ArtefactError

KINDS = {  # of torch's storages -> (name in safetensors, bytes of an element)
    "FloatStorage": ("F32", 4), "DoubleStorage": ("F64", 8), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip
_DICTS = ("collections OrderedDict", "collections defaultdict")
_TENSORS = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
_PARAMETER = "torch._utils _rebuild_parameter"
_SETTINGS = (  # what stands in checkpoints beside weights; it becomes nothing
    "argparse Namespace", "torch Size", "torch device", "_codecs encode", "numpy dtype", "numpy ndarray",
    "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar",
    "numpy._core.multiarray _reconstruct", "builtins dict", "builtins list", "builtins set", "__builtin__ dict",
    "__builtin__ list", "__builtin__ set",
)  # fmt: skip
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files written before torch 1.6
_MOST_PICKLE = 1 << 28  # bytes of one pickle: weights stand outside of it


class Storage(NamedTuple):
    """Where a tensor's numbers are."""

    kind: str
    key: str
    size: int  # elements


class Stored(NamedTuple):
    """A tensor that has not been read."""

    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Name(NamedTuple):
    """A function or class that the pickle names."""

    name: str


@dataclass(frozen=True)
class _Nothing:
    """What a setting beside the weights becomes."""


_NOTHING, _MARK = _Nothing(), object()


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, and where its numbers are.

    Attributes:
        content: as it was saved, `Stored` in place of tensors.
        places: storage -> (byte where it begins, bytes).
    """

    content: Any
    places: Mapping[str, tuple[int, int]]
    file: BinaryIO = field(repr=False)

    def read(self, tensor: Stored) -> memoryview:
        """The bytes of one tensor, row by row.

        Raises:
            ArtefactError: it does not lie within its storage, or is no plain row-by-row tensor.
        """
        begin, size = self.places.get(tensor.storage.key, (0, -1))
        width = KINDS[tensor.storage.kind][1]
        count, expected = 1, []
        for length, stride in zip(reversed(tensor.shape), reversed(tensor.stride)):
            expected.append(stride == count or length == 1)
            count *= length
        first, wanted = tensor.offset * width, count * width
        if min((*tensor.shape, tensor.offset), default=0) < 0 or first + wanted > size or not all(expected):
            raise _refused(f"a tensor of the shape {tensor.shape} does not lie in its storage row by row")
        self.file.seek(begin + first)
        data = self.file.read(wanted)
        if len(data) != wanted:
            raise _refused("it ends too soon")
        return memoryview(data)


@contextmanager
def opened(path: Path) -> Iterator[Checkpoint]:
    """A file that `torch.save` wrote, in either of its two layouts.

    Raises:
        ArtefactError: damaged, or it asks for anything but tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            yield _zipped(file) if zipfile.is_zipfile(file) else _legacy(file)
    except ArtefactError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _refused(f"not a readable checkpoint ({type(error).__name__}: {str(error)[:100]})") from None


def _zipped(file: BinaryIO) -> Checkpoint:
    places: dict[str, tuple[int, int]] = {}
    with zipfile.ZipFile(file) as archive:
        pickles = [info for info in archive.infolist() if info.filename.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1 or pickles[0].file_size > _MOST_PICKLE:
            raise _refused("a zip archive without one data.pkl")
        folder = pickles[0].filename.removesuffix("data.pkl")
        for info in archive.infolist():
            if info.filename == f"{folder}byteorder" and archive.read(info) != b"little":
                raise _refused("its numbers are big-endian")
            if info.filename.startswith(f"{folder}data/"):
                if info.compress_type != zipfile.ZIP_STORED:
                    raise _refused("its numbers are compressed")
                with archive.open(info):  # checks the local header
                    places[info.filename.removeprefix(f"{folder}data/")] = (_begin(file, info), info.file_size)
        content = _Machine(io.BytesIO(archive.read(pickles[0]))).run()
    return Checkpoint(content, places, file)


def _begin(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose lengths are its own."""
    file.seek(info.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name + extra


def _legacy(file: BinaryIO) -> Checkpoint:
    file.seek(0)
    machine = _Machine(file)
    if machine.run() != _MAGIC or machine.run() != _PROTOCOL:
        raise _refused("no checkpoint of torch")
    system = machine.run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _refused("its numbers are big-endian")
    content, keys = machine.run(), machine.run()
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        storage = machine.storages[key]
        size = int.from_bytes(file.read(8), "little", signed=True)
        if size != storage.size:
            raise _refused(f"storage {key} has another size than stated")
        places[key] = (file.tell(), size * KINDS[storage.kind][1])
        file.seek(places[key][1], io.SEEK_CUR)
    return Checkpoint(content, places, file)


class _Machine:
    """Follows a pickle's opcodes over plain values; a name that is not on the lists above ends it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The next pickled value of the stream."""
        self._stack, self._memo = [], {}
        for opcode, argument, _ in pickletools.genops(self.stream):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise _refused("a pickle without an end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else int(argument)] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memo[int(argument)])
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name == "GLOBAL":
            self._stack.append(_known(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = self._stack.pop(), self._stack.pop()
            self._stack.append(_known(f"{module} {attribute}"))
        elif name == "BINPERSID":
            self._stack.append(self._storage(self._stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, made = self._stack.pop(), self._stack.pop()
            self._stack.append(_made(made, arguments))
        elif name not in ("PROTO", "FRAME"):
            self._gather(name)

    def _gather(self, name: str) -> None:
        """The opcodes that put values into others."""
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            self._stack.append({"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset}[name](self._marked()))
        elif name == "DICT":
            items = self._marked()
            self._stack.append(_filled({}, items))
        elif name in ("SETITEMS", "SETITEM"):
            items = self._marked() if name == "SETITEMS" else [self._stack.pop(-2), self._stack.pop()]
            _filled(self._stack[-1], items)
        elif name in ("APPENDS", "APPEND", "ADDITEMS"):
            items = [self._stack.pop()] if name == "APPEND" else self._marked()
            target = self._stack[-1]
            if isinstance(target, list):
                target.extend(items)
        elif name == "BUILD":
            self._stack.pop()  # attributes, such as a state dict's metadata
        elif name == "POP":
            self._stack.pop()
        else:
            raise _refused(f"its pickle has the opcode {name}")

    def _marked(self) -> list[Any]:
        """The values since the last mark, taken off the stack."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def _storage(self, stated: Any) -> Storage:
        kind, storage, key, _, size, *view = stated
        name = storage.name.removeprefix("torch ") if isinstance(storage, _Name) else ""
        if kind != "storage" or name not in KINDS or not isinstance(size, int) or any(view):
            raise _refused(f"it names a storage of an unknown kind: {str(stated)[:100]}")
        made = Storage(name, str(key), size)
        self.storages[str(key)] = made
        return made


_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}


def _known(name: str) -> _Name:
    """A name that may stand in a checkpoint of weights."""
    module, _, attribute = name.partition(" ")
    plain = name in (*_DICTS, *_TENSORS, _PARAMETER, *_SETTINGS)
    if not plain and not (module == "torch" and attribute in KINDS):
        raise _refused(f"it asks for {module}.{attribute}, which is neither a tensor nor a plain value")
    return _Name(name)


def _made(what: Any, arguments: Any) -> Any:
    """What calling a name would have made, as far as it is a tensor or a dictionary."""
    if not isinstance(what, _Name) or not isinstance(arguments, tuple):
        return _NOTHING
    if what.name in _DICTS:
        return {}
    if what.name in _TENSORS:
        storage, offset, shape, stride = arguments[:4]
        numbers = (offset, *shape, *stride)
        if not isinstance(storage, Storage) or not all(type(n) is int for n in numbers) or len(shape) != len(stride):
            raise _refused("a tensor that is not described by numbers")
        return Stored(storage, offset, tuple(shape), tuple(stride))
    return arguments[0] if what.name == _PARAMETER else _NOTHING


def _filled(target: Any, items: list[Any]) -> Any:
    if isinstance(target, dict):
        for key in items[::2]:  # hashing a tuple of tuples of the same tuple takes a time without end
            if not isinstance(key, str | int | float | bytes | _Nothing | None):
                raise _refused(f"a dictionary with a key that is a {type(key).__name__}")
        target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _refused(what: str) -> ArtefactError:
    return ArtefactError(what, fix="do not open this file, or save the weights as safetensors where you trust it")
