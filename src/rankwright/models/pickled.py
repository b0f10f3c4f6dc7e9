"""Reads the tensors of a torch checkpoint without unpickling it: opcodes are looked at, nothing is ever called."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import ArtefactError
from ..pickles import DAMAGE, Refused, follow

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
    except Refused as error:
        raise _refused(f"its pickle {error}") from None
    except (OSError, zipfile.BadZipFile, NotImplementedError, *DAMAGE) as error:
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
        content = follow(archive.read(pickles[0]), _Names())
    return Checkpoint(content, places, file)


def _begin(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose lengths are its own."""
    file.seek(info.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name + extra


def _legacy(file: BinaryIO) -> Checkpoint:
    file.seek(0)
    names = _Names()
    if follow(file, names) != _MAGIC or follow(file, names) != _PROTOCOL:
        raise _refused("no checkpoint of torch")
    system = follow(file, names)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _refused("its numbers are big-endian")
    content, keys = follow(file, names), follow(file, names)
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        storage = names.storages[key]
        size = int.from_bytes(file.read(8), "little", signed=True)
        if size != storage.size:
            raise _refused(f"storage {key} has another size than stated")
        places[key] = (file.tell(), size * KINDS[storage.kind][1])
        file.seek(places[key][1], io.SEEK_CUR)
    return Checkpoint(content, places, file)


class _Names:
    """What stands for the names of a checkpoint: storages, tensors, dictionaries, nothing for settings."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}

    def named(self, name: str) -> _Name:
        module, _, attribute = name.partition(" ")
        plain = name in (*_DICTS, *_TENSORS, _PARAMETER, *_SETTINGS)
        if not plain and not (module == "torch" and attribute in KINDS):
            raise Refused(f"asks for {module}.{attribute}, which is neither a tensor nor a plain value")
        return _Name(name)

    def called(self, what: Any, arguments: Any) -> Any:
        """What calling a name would have made, as far as it is a tensor or a dictionary."""
        if not isinstance(what, _Name) or not isinstance(arguments, tuple):
            return None
        if what.name in _DICTS:
            return {}
        if what.name in _TENSORS:
            return _stored(*arguments[:4])
        return arguments[0] if what.name == _PARAMETER else None

    def referred(self, stated: Any) -> Storage:
        kind, storage, key, _, size, *view = stated
        name = storage.name.removeprefix("torch ") if isinstance(storage, _Name) else ""
        if kind != "storage" or name not in KINDS or not isinstance(size, int) or any(view):
            raise Refused(f"names a storage of an unknown kind: {str(stated)[:100]}")
        made = Storage(name, str(key), size)
        self.storages[str(key)] = made
        return made


def _stored(storage: Any, offset: Any, shape: Any, stride: Any) -> Stored:
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or not all(type(n) is int for n in numbers) or len(shape) != len(stride):
        raise Refused("has a tensor that is not described by numbers")
    return Stored(storage, offset, tuple(shape), tuple(stride))


def _refused(what: str) -> ArtefactError:
    return ArtefactError(what, fix="do not open this file, or save the weights as safetensors where you trust it")
