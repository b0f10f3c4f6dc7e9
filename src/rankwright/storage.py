"""The only writer: atomic files, checksummed folders with the manifest last, restartable drafts, locks.

A *file* is written to a temporary name beside its target, re-read, fsynced and renamed. A *folder* (model, checkpoint,
vectors, tokens, run) is collected in a draft beside its target; `manifest.json` with sizes, SHA-256 and an XXH3 per
4 MiB block is written last, then the folder is renamed. A folder without a manifest is not an artefact.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from .errors import ArtefactError, ResourceError, UsageError

BLOCK = 4 << 20
FORMAT = 1
MANIFEST = "manifest.json"
_JOURNAL = "done.jsonl"


class FileSystem:
    """Every system call of this module that changes the disk; tests replace it by one that fails on purpose."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def append(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

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


# --- names -------------------------------------------------------------------------------------------------------------


def safe_name(name: str) -> str:
    """`name` if it is a plain file name that cannot leave its folder; else a typed error."""
    bad = not name or name.startswith(".") or len(name.encode("utf-8", "surrogatepass")) > 200
    if bad or any(c in "/\\" or ord(c) < 32 or 0x202A <= ord(c) <= 0x202E or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise UsageError(f"{name[:80]!r} cannot be a file name", fix="use letters, digits, '-', '_' and '.'")
    return name


# --- single files ------------------------------------------------------------------------------------------------------


def _disk_error(error: OSError, path: Path) -> ResourceError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "free disk space or choose another output folder" if full else "check the disk and the folder's permissions"
    return ResourceError(f"cannot write: {error.strerror or error}", where=path, fix=fix)


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        try:
            data = data[fs.write(fd, data) :]
        except InterruptedError:
            continue


class FileWriter(io.RawIOBase):
    """A write-only binary file that counts and hashes what goes through it; made by `write_file`."""

    def __init__(self, fd: int) -> None:
        self._fd, self.size, self._hash = fd, 0, xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
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
    """Write `path` atomically: after the block it is complete and durable, or what was there before is untouched."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fs.mkdir(path.parent)
        fs.unlink(temporary)
        fd = fs.create(temporary)
        try:
            writer = FileWriter(fd)
            yield writer
            writer.check()
            fs.fsync(fd)
        finally:
            os.close(fd)
        fs.rename(temporary, path)
        fs.fsync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _disk_error(error, path) from error
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


def write_tensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Torch tensors as a safetensors file."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, dict(metadata or {})))


def append_line(path: str | Path, record: object) -> None:
    """Append one JSON line (a journal or a log); a torn last line is what readers must expect after a kill."""
    path = Path(path)
    try:
        fs.mkdir(path.parent)
        fd = fs.append(path)
        try:
            _write_all(fd, memoryview((json.dumps(record, ensure_ascii=False) + "\n").encode()))
        finally:
            os.close(fd)
    except OSError as error:
        raise _disk_error(error, path) from error


def read_lines(path: str | Path) -> list[Any]:
    """The records of an `append_line` file; a torn last line is dropped. An absent file is empty."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ArtefactError(f"line is not JSON: {line[:60]!r}", where=f"{path}:{number}") from error
    return records


def read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise ArtefactError("file is missing", where=path) from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"not valid JSON ({error})", where=path) from error


def read_npy(path: str | Path) -> np.ndarray:
    """A memory-mapped array; pickled objects are refused."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ArtefactError("file is missing", where=path) from None
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, ValueError) and Path(path).stat().st_size and "mmap" in str(error):
            return np.load(path, allow_pickle=False)  # an empty array cannot be mapped
        raise ArtefactError(f"not a readable .npy file ({error})", where=path) from error


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


# --- folders with a manifest -------------------------------------------------------------------------------------------


def _digest(path: Path) -> dict[str, Any]:
    sha, blocks, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while chunk := file.read(BLOCK):
            sha.update(chunk)
            blocks.append(xxhash.xxh3_64_hexdigest(chunk))
            size += len(chunk)
    return {"size": size, "sha256": sha.hexdigest(), "xxh3": blocks}


def _canonical(manifest: dict[str, Any]) -> bytes:
    body = {k: v for k, v in manifest.items() if k != "seal"}
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps(body | {"seal": seal}, sort_keys=True, indent=1) + "\n").encode()


@dataclass(frozen=True)
class Manifest:
    """What a published folder holds: its kind, its key (what it was made from), free metadata and its files."""

    folder: Path
    kind: str
    key: str
    meta: dict[str, Any]
    files: dict[str, dict[str, Any]]


def read_manifest(folder: str | Path, kind: str | None = None) -> Manifest:
    """The manifest of a published folder, its seal checked.

    Raises:
        ArtefactError: absent, damaged, of another kind or format.
    """
    folder = Path(folder)
    _restore(folder)
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError:
        raise ArtefactError("no manifest.json: not a finished artefact", where=folder, fix="make it again") from None
    try:
        body = json.loads(raw)
        intact = isinstance(body, dict) and _canonical(body) == raw
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise ArtefactError("the manifest is damaged", where=path, fix="make the artefact again")
    if body["format"] != FORMAT:
        raise ArtefactError(f"format {body['format']}, this version reads {FORMAT}", where=path)
    if kind is not None and body["kind"] != kind:
        raise ArtefactError(f"holds '{body['kind']}', expected '{kind}'", where=folder)
    return Manifest(folder, body["kind"], body["key"], body["meta"], body["files"])


def verify(folder: str | Path, kind: str | None = None, *, full: bool = False) -> Manifest:
    """`read_manifest`, and every file compared with it: size and XXH3 blocks always, SHA-256 too when `full`."""
    manifest = read_manifest(folder, kind)
    for name, expected in manifest.files.items():
        path = manifest.folder / name
        if not path.is_file():
            raise ArtefactError("file is missing", where=path, fix="make the artefact again")
        if (size := path.stat().st_size) != expected["size"]:
            raise ArtefactError(f"{size} bytes, the manifest says {expected['size']}", where=path)
        sha = hashlib.sha256() if full else None
        with path.open("rb") as file:
            for number, block in enumerate(expected["xxh3"]):
                chunk = file.read(BLOCK)
                if xxhash.xxh3_64_hexdigest(chunk) != block:
                    raise ArtefactError(f"block {number} is damaged", where=path, fix="make the artefact again")
                if sha:
                    sha.update(chunk)
        if sha and sha.hexdigest() != expected["sha256"]:
            raise ArtefactError("SHA-256 differs", where=path, fix="make the artefact again")
    return manifest


def is_current(folder: str | Path, kind: str, key: str) -> bool:
    """Whether `folder` is an intact artefact of this kind made from exactly this key."""
    try:
        return read_manifest(folder, kind).key == key and bool(verify(folder, kind))
    except ArtefactError:
        return False


@dataclass
class Draft:
    """A folder being made: write files by name; `publish` turns it into an artefact."""

    path: Path
    meta: dict[str, Any]
    _done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether an earlier session finished this file and it is intact."""
        return name in self._done and self.file(name).is_file() and _digest(self.file(name)) == self._done[name]

    def done(self, name: str) -> None:
        """Record a written file, so that a later session finds it (`has`)."""
        self._done[name] = _digest(self.file(name))
        append_line(self.path / _JOURNAL, {"name": name, **self._done[name]})


def _sibling(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _restore(folder: Path) -> None:
    """Bring back the old version when a kill fell between the two renames of a replacement."""
    old = _sibling(folder, "old")
    if not folder.exists() and (old / MANIFEST).is_file():
        with suppress(OSError):
            fs.rename(old, folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        fs.rmtree(path)


def _load_draft(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """What an interrupted draft of the same key holds; a draft of another key is cleared away."""
    try:
        records = read_lines(path / _JOURNAL)
    except ArtefactError:
        records = []
    if not records or records[0] != {"key": key}:
        _remove(path)
        return {}
    return {r["name"]: {k: r[k] for k in ("size", "sha256", "xxh3")} for r in records[1:]}


@contextmanager
def publish(
    folder: str | Path, kind: str, *, key: str = "", meta: Mapping[str, Any] | None = None, resume: bool = False
) -> Iterator[Draft]:
    """Make `folder` an artefact: yields a `Draft` to fill; when the block ends well, seals and renames it.

    Args:
        kind: what it is: ``"model"``, ``"vectors"``, ``"tokens"``, ``"checkpoint"`` ...
        key: content hash of everything it is made from; `is_current` compares it.
        meta: small JSON facts; `draft.meta` may be changed until the end.
        resume: keep an unfinished draft with the same key, so that `draft.has(name)` finds finished files.

    Raises:
        ResourceError: disk full, I/O error, or another process is making the same folder.
    """
    folder = Path(folder)
    draft_path, old = _sibling(folder, "draft"), _sibling(folder, "old")
    with lock(_sibling(folder, "lock")):
        try:
            sweep(folder.parent)
            _restore(folder)
            done = _load_draft(draft_path, key) if resume else {}
            if not done:
                _remove(draft_path)
            fs.mkdir(draft_path)
            draft = Draft(draft_path, dict(meta or {}), done)
            if not done:
                append_line(draft_path / _JOURNAL, {"key": key})
            yield draft
            _seal(draft, kind, key)
            _remove(old)
            if folder.exists():
                fs.rename(folder, old)
            fs.rename(draft_path, folder)
            fs.fsync_folder(folder.parent)
            fs.unlink(folder / _JOURNAL)
            _remove(old)
        except BaseException as error:
            if not resume:
                shutil.rmtree(draft_path, ignore_errors=True)
            _restore(folder)
            if isinstance(error, OSError):
                raise _disk_error(error, folder) from error
            raise


def _seal(draft: Draft, kind: str, key: str) -> None:
    names = sorted(str(p.relative_to(draft.path)) for p in draft.path.rglob("*") if p.is_file())
    names = [name for name in names if name not in (_JOURNAL, MANIFEST)]
    for name in names:  # also files that a library wrote into the draft
        with draft.file(name).open("rb") as file:
            fs.fsync(file.fileno())
    files = {name: draft._done.get(name) or _digest(draft.file(name)) for name in names}
    body = {"format": FORMAT, "kind": kind, "key": key, "meta": draft.meta, "files": files}
    write_bytes(draft.path / MANIFEST, _canonical(body))


# --- locks, left-overs -------------------------------------------------------------------------------------------------


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold `path` as an exclusive lock; the kernel frees it when its owner dies.

    Raises:
        ResourceError: another live process holds it.
    """
    path = Path(path)
    try:
        fs.mkdir(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _disk_error(error, path) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 64, 0).decode("ascii", "replace") or "unknown"
            raise ResourceError(
                f"another process (pid {owner.strip()}) is working here", where=path, fix="wait for it or end it"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def sweep(folder: str | Path) -> None:
    """Remove temporary files whose writer is dead."""
    for path in Path(folder).glob(".*.tmp"):
        owner = path.name.rsplit(".", 2)[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with suppress(OSError):
                path.unlink()
