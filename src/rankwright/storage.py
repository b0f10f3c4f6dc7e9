"""The only writer: atomic files, checksummed folders with the manifest last, restartable drafts, locks.

A *file* is written to a temporary name beside its target, re-read, fsynced and renamed. A *folder* (model, checkpoint,
vectors, tokens, run) is collected in a draft beside its target; `manifest.json` with sizes, SHA-256 and an XXH3 per
4 MiB block is written last, then the folder is renamed. A folder without a manifest is not an artefact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._files import (
    PATIENCE,
    FileSystem,
    FileWriter,
    append_line,
    disk_errors,
    fs,
    lock,
    make_folder,
    raise_if_disk,
    require_space,
    safe_name,
    sweep,
    write_bytes,
    write_file,
    write_json,
    write_npy,
    write_npy_parts,
    write_tensors,
    write_text,
)
from ._scratch import Scratch
from .artefacts import (
    BLOCK,
    FORMAT,
    MANIFEST,
    Manifest,
    check_files,
    digest,
    parse_manifest,
    read_json,
    read_lines,
    read_npy,
    readable_lines,
    sealed,
)
from .errors import ArtefactError, ResourceError, UsageError

__all__ = [
    "BLOCK", "FORMAT", "MANIFEST", "Draft", "FileSystem", "FileWriter", "Manifest", "Scratch", "append_line", "fs",
    "is_current", "lock", "publish", "read_json", "read_lines", "read_manifest", "read_npy", "readable_lines",
    "remove_folder", "require_space", "safe_name", "sweep", "verify", "write_bytes", "write_file", "write_json",
    "write_npy", "write_npy_parts", "write_tensors", "write_text",
]  # fmt: skip

_JOURNAL = "done.jsonl"


def read_manifest(folder: str | Path, kind: str | None = None) -> Manifest:
    """The manifest of a published folder, its seal checked.

    Raises:
        ArtefactError: absent, damaged, of another kind or format.
    """
    folder, deadline = Path(folder), time.monotonic() + PATIENCE
    while True:
        try:
            raw = (folder / MANIFEST).read_bytes()
        except OSError:
            if time.monotonic() < deadline and _settle(folder):
                continue
            what = "no manifest.json: not a finished artefact"
            raise ArtefactError(what, where=folder, fix="make it again") from None
        return parse_manifest(raw, folder, kind)


def _settle(folder: Path) -> bool:
    """Undo the half-done replacement of a dead process or await a live one; whether to look again."""
    path = _sibling(folder, "lock")
    if not path.exists() and not _sibling(folder, "old").exists():  # nobody is at work: an absent folder stays absent,
        return (folder / MANIFEST).is_file() or path.exists()  # unless somebody ended or began this very moment
    try:
        with lock(path, patience=0):
            return _restore(folder)
    except ResourceError:
        time.sleep(0.005)
        return True


def verify(folder: str | Path, kind: str | None = None, *, full: bool = False) -> Manifest:
    """`read_manifest`, and every file compared with it: size and XXH3 blocks always, SHA-256 too when `full`."""
    folder = Path(folder)
    while True:
        before = _identity(folder)
        manifest = read_manifest(folder, kind)
        try:
            check_files(manifest, full=full)
        except ArtefactError:
            if before is not None and before == _identity(folder):
                raise
            continue  # another process has just replaced it
        return manifest


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


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
    _claims: dict[str, dict[str, Any]] = field(default_factory=dict)  # digests that an earlier session wrote down
    _known: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)  # stamp and digest, seen this session

    def file(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether an earlier session finished this file and it is intact."""
        return name in self._claims and self.file(name).is_file() and self._digest(name) == self._claims[name]

    def done(self, name: str) -> None:
        """Record a written file, so that a later session finds it (`has`)."""
        self._claims[name] = self._digest(name)
        append_line(self.path / _JOURNAL, {"name": name, **self._claims[name]})

    def _digest(self, name: str) -> dict[str, Any]:
        """Computed once per state of the file."""
        status = self.file(name).stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if name not in self._known or self._known[name][0] != stamp:
            self._known[name] = (stamp, digest(self.file(name)))
        return self._known[name][1]

    def _files(self) -> list[str]:
        """Everything in the folder, also what a library wrote."""
        names = (str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file())
        return sorted(name for name in names if name not in (_JOURNAL, MANIFEST))

    def _seal(self, kind: str, key: str) -> None:
        for path in (self.path, *self.path.rglob("*")):
            if path.is_dir():
                fs.fsync_folder(path)
        for name in self._files():
            with self.file(name).open("rb") as file:
                fs.fsync(file.fileno())
        files = {name: self._digest(name) for name in self._files()}
        body = {"format": FORMAT, "kind": kind, "key": key, "meta": self.meta, "files": files}
        write_bytes(self.path / MANIFEST, sealed(body))


def _sibling(folder: Path, role: str) -> Path:
    folder = folder.resolve() if folder.name in ("", "..") else folder
    return folder.with_name(f".{folder.name}.{role}")


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
        UsageError: something that is no artefact stands at `folder`; it is left alone.
    """
    folder = Path(folder)
    with lock(_sibling(folder, "lock")):
        try:
            with disk_errors(folder):
                draft = _open_draft(folder, key, dict(meta or {}), resume=resume)
            yield draft
            with disk_errors(folder):
                draft._seal(kind, key)
                _replace(folder, draft.path)
        except BaseException as error:
            with suppress(OSError):
                if not resume:
                    _remove(_sibling(folder, "draft"))
                _restore(folder)
            raise_if_disk(error, folder)
            raise


def _open_draft(folder: Path, key: str, meta: dict[str, Any], *, resume: bool) -> Draft:
    sweep(folder.parent)
    _restore(folder)
    if folder.exists() and not (folder / MANIFEST).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError("exists and is no artefact", where=folder, fix="choose another folder, or remove this one")
    path = _sibling(folder, "draft")
    draft = Draft(path, meta, _unfinished(path, key) if resume else {})
    if not draft._claims:
        _remove(path)
    make_folder(path)
    for name in draft._files():
        if name not in draft._claims:  # torn by a kill, or a temporary file
            fs.unlink(draft.file(name))
    records = [{"key": key}, *({"name": name, **claim} for name, claim in draft._claims.items())]
    write_text(path / _JOURNAL, "".join(json.dumps(record) + "\n" for record in records))
    return draft


def _unfinished(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """The files that an interrupted draft of the same key claims to hold."""
    try:
        manifest = parse_manifest((path / MANIFEST).read_bytes(), path, None)  # killed after it was sealed
        return manifest.files if manifest.key == key else {}
    except (OSError, ArtefactError):
        pass
    try:
        first, *records = read_lines(path / _JOURNAL) or [None]
        return {r["name"]: {k: r[k] for k in ("size", "sha256", "xxh3")} for r in records if first == {"key": key}}
    except (ArtefactError, KeyError, TypeError):
        return {}


def _replace(folder: Path, draft: Path) -> None:
    old = _sibling(folder, "old")
    fs.unlink(draft / _JOURNAL)
    _discard(old)
    if folder.exists():
        fs.rename(folder, old)
    fs.rename(draft, folder)
    fs.fsync_folder(folder.parent)
    with suppress(OSError):  # the new version stands; what remains of the old is swept later
        _discard(old)


def _restore(folder: Path) -> bool:
    """Bring back the old version when a kill fell between the two renames; whether there is an artefact now."""
    old = _sibling(folder, "old")
    if not folder.exists() and (old / MANIFEST).is_file():
        with suppress(OSError):
            fs.rename(old, folder)
    return (folder / MANIFEST).is_file()


def _remove(path: Path) -> None:
    if path.is_dir():
        fs.rmtree(path)


def _discard(folder: Path) -> None:
    """Remove an artefact at once: a kill leaves it whole, or under a name that `sweep` clears away."""
    gone = _sibling(folder, "gone")
    _remove(gone)
    if folder.is_dir():
        fs.rename(folder, gone)
        fs.rmtree(gone)


def remove_folder(folder: str | Path) -> None:
    """Remove an artefact; an absent one is no error."""
    with disk_errors(Path(folder)):
        _discard(Path(folder))
