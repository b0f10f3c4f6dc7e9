"""Single files and locks, beneath `storage`: atomic writes, appended lines, what a killed process left."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from .artefacts import BLOCK
from .errors import ResourceError, UsageError

PATIENCE = 0.5  # seconds: how long a lock or a replacement that is just ending is waited for
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS)
_BIDI = {0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


class FileSystem:
    """Every system call of this module that changes the disk; tests replace it by one that fails on purpose."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def append(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)  # noqa: PTH105

    def mkdir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rmtree(self, path: Path) -> None:
        shutil.rmtree(path)

    def fsync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


fs = FileSystem()


def safe_name(name: str) -> str:
    """`name` if it is a plain file name that cannot leave its folder; else a typed error."""
    bad = not name or name.startswith(".") or len(name.encode("utf-8", "surrogatepass")) > 200
    codes = {ord(c) for c in name}
    if (
        bad
        or codes & _BIDI
        or any(c < 32 or 0x7F <= c < 0xA0 or 0xD800 <= c < 0xE000 or chr(c) in "/\\" for c in codes)
    ):
        raise UsageError(f"{name[:80]!r} cannot be a file name", fix="use letters, digits, '-', '_' and '.'")
    return name


# --- single files -----------------------------------------------------------------------------------------------------


def _disk_error(error: OSError, path: Path) -> ResourceError:
    full = error.errno in _FULL
    fix = "free disk space or choose another output folder" if full else "check the disk and the folder's permissions"
    return ResourceError(f"cannot write: {error.strerror or error}", where=path, fix=fix)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Names `path` in every error of the disk."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error, path) from error


def raise_if_disk(error: BaseException, path: Path) -> None:
    """Type what a caller's block raised if the disk is to blame; its other errors (a missing input) are its own."""
    if isinstance(error, OSError) and error.errno in _DISK:
        raise _disk_error(error, path) from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents, so that they outlive a power cut.

    Raises:
        UsageError: one of them is a file.
    """
    for folder in (path, *path.parents):
        if folder.exists():
            if not folder.is_dir():
                raise UsageError("is a file, a folder is needed here", where=folder, fix="choose another place")
            break
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    fs.mkdir(path)
    for folder in new:
        fs.fsync_folder(folder.parent)


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        try:
            written = fs.write(fd, data)
        except InterruptedError:
            continue
        if written == 0:
            raise OSError(errno.EIO, "the disk takes no more bytes")
        data = data[written:]


class FileWriter(io.RawIOBase):
    """A write-only binary file that counts and hashes what goes through it; made by `write_file`."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd, self._path, self.size, self._hash = fd, path, 0, xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        with disk_errors(self._path):
            _write_all(self._fd, view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def check(self) -> None:
        """Re-read the file: a short or lying write must not pass for success."""
        again, offset = xxhash.xxh3_128(), 0
        while chunk := os.pread(self._fd, BLOCK, offset):
            again.update(chunk)
            offset += len(chunk)
        if offset != self.size or again.digest() != self._hash.digest():
            raise OSError(errno.EIO, f"wrote {self.size} bytes but the disk holds {offset} others")


@contextmanager
def write_file(path: str | Path) -> Iterator[FileWriter]:
    """Write `path` atomically: after the block it is complete and durable, or what was there before is untouched.

    Raises:
        ResourceError: disk full or I/O error.
        UsageError: `path` is a folder, or lies below a file.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise UsageError("is a folder, a file is written here", where=path, fix="name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            make_folder(path.parent)
            fs.unlink(temporary)
            fd = fs.create(temporary)
        try:
            writer = FileWriter(fd, path)
            yield writer
            with disk_errors(path):
                writer.check()
                fs.fsync(fd)
        finally:
            os.close(fd)
        with disk_errors(path):
            fs.rename(temporary, path)
            fs.fsync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            fs.unlink(temporary)
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    with write_file(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npy(path: str | Path, array: np.ndarray) -> None:
    with write_file(path) as file:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def write_npy_parts(path: str | Path, parts: Iterable[np.ndarray], *, dtype: np.dtype | type, rows: int) -> None:
    """An array of one axis, `rows` long, that is never in memory as a whole: its parts in order."""
    dtype, written = np.dtype(dtype).newbyteorder("<"), 0
    with write_file(path) as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).tobytes())
            written += len(part)
        assert written == rows, f"{written} rows were given, {rows} promised"


def write_tensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Torch tensors as a safetensors file.

    Raises:
        UsageError: there is no tensor; safetensors cannot read such a file.
    """
    if not tensors:
        raise UsageError(
            "no tensors were given to be written", where=path, fix="write a file only for what has weights"
        )
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, dict(metadata or {})))


def append_line(path: str | Path, record: object) -> None:
    """Append one JSON line (a journal or a log); one writer at a time.

    A kill may tear the last line: `read_lines` drops it, and the next append removes it.
    """
    path = Path(path)
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
    with disk_errors(path):
        make_folder(path.parent)
        fd = fs.append(path)
        try:
            size = _drop_torn_line(fd)
            _write_all(fd, memoryview(line))
            if os.fstat(fd).st_size != size + len(line):
                raise OSError(errno.EIO, "the disk holds less than was written")
        finally:
            os.close(fd)


def _drop_torn_line(fd: int) -> int:
    """The size of the file once it ends with a whole line."""
    size = end = os.fstat(fd).st_size
    while end:
        begin = max(0, end - BLOCK)
        newline = os.pread(fd, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end < size:
        fs.truncate(fd, end)
    return end


def require_space(path: str | Path, size: int) -> None:
    """Refuse before the work starts when `size` bytes cannot fit at `path`."""
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ResourceError(
            f"needs about {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free",
            where=path,
            fix="free disk space or choose another output folder",
        )


# --- locks, left-overs ------------------------------------------------------------------------------------------------


@contextmanager
def lock(path: str | Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Hold `path` as an exclusive lock; the kernel frees it when its owner dies, the owner removes the file.

    Only who holds the lock of the file that stands at `path` may remove it. Who waited for a removed file holds
    nothing and tries again, so two never hold the lock at once.

    Args:
        patience: seconds to wait for an owner that is about to let go.

    Raises:
        ResourceError: another live process holds it.
    """
    path, deadline = Path(path), time.monotonic() + patience
    fd = _acquire(path, deadline)
    try:
        with suppress(OSError):  # for the other's error message only; a full disk must not matter
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            fs.unlink(path)
        os.close(fd)


def _acquire(path: Path, deadline: float) -> int:
    """A descriptor that holds the lock of the file which stands at `path` now."""
    while True:
        with disk_errors(path):
            make_folder(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _try_lock(fd) and _stands_at(path, fd):
                return fd
            if time.monotonic() >= deadline:
                owner = os.pread(fd, 64, 0).decode("ascii", "replace").strip() or "unknown"
                what = f"another process (pid {owner}) is working here"
                raise ResourceError(what, where=path, fix="wait for it or end it")
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        time.sleep(0.01)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stands_at(path: Path, fd: int) -> bool:
    """Whether the opened file is still the one of this name: the last owner may have removed it since."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def sweep(folder: str | Path) -> None:
    """Remove what killed processes left in `folder`: temporary files of dead writers, folders on their way out."""
    for path in Path(folder).glob(".*.tmp"):
        owner = path.name.rsplit(".", 2)[-2]
        if owner.isdigit() and not _alive(int(owner)):
            with suppress(OSError):
                fs.unlink(path)
    for path in Path(folder).glob(".*.gone"):
        with suppress(OSError):
            fs.rmtree(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
