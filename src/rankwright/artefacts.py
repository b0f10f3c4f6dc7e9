"""Reads what `storage` writes and proves it intact: manifests, block checksums, JSON, npy and line files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import xxhash

from .errors import ArtefactError

BLOCK = 4 << 20
FORMAT = 1
MANIFEST = "manifest.json"
_AGAIN = "make the artefact again"


# --- single files -----------------------------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtefactError("file is missing", where=path) from None
    except OSError as error:
        raise ArtefactError(f"cannot be read: {error.strerror}", where=path, fix="check its permissions") from error


def read_lines(path: str | Path) -> list[Any]:
    """The records of an `append_line` file; a torn last line is dropped. An absent file is empty."""
    path = Path(path)
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(_read_bytes(path).split(b"\n")[:-1], start=1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            what, fix = f"line is not JSON: {line[:60]!r}", "remove the line"
            raise ArtefactError(what, where=f"{path}:{number}", fix=fix) from error
    return records


def readable_lines(path: str | Path, needed: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """The records of an `append_line` file that hold numbers under all `needed` names, and how many lines do not."""
    path = Path(path)
    records, lines = [], _read_bytes(path).split(b"\n")[:-1] if path.exists() else []
    for line in lines:
        try:
            record = json.loads(line)
            if all(isinstance(record[name], int | float) for name in needed):
                records.append(record)
        except (ValueError, RecursionError, TypeError, KeyError, IndexError):
            continue
    return records, len(lines) - len(records)


def read_json(path: str | Path) -> Any:
    try:
        return json.loads(_read_bytes(Path(path)))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"not valid JSON ({error})", where=path) from error


def read_npy(path: str | Path) -> np.ndarray:
    """A memory-mapped array; pickled objects are refused."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ArtefactError("file is missing", where=path) from None
    except Exception as error:  # NumPy's header parser raises whatever Python's tokenizer does
        raise ArtefactError(f"not a readable .npy file ({error})", where=path) from error


# --- folders with a manifest ------------------------------------------------------------------------------------------


def digest(path: Path) -> dict[str, Any]:
    """What the manifest says about a file: size, SHA-256 and an XXH3 per block."""
    sha, blocks, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while chunk := file.read(BLOCK):
            sha.update(chunk)
            blocks.append(xxhash.xxh3_64_hexdigest(chunk))
            size += len(chunk)
    return {"size": size, "sha256": sha.hexdigest(), "xxh3": blocks}


def sealed(manifest: dict[str, Any]) -> bytes:
    """The one way to write a manifest: every other byte sequence is damage."""
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


def parse_manifest(raw: bytes, folder: Path, kind: str | None) -> Manifest:
    """The manifest of `folder` from its bytes, its seal checked.

    Raises:
        ArtefactError: damaged, of another kind or format.
    """
    path = folder / MANIFEST
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or sealed(body) != raw:
        raise ArtefactError("the manifest is damaged", where=path, fix=_AGAIN)
    if body.get("format") != FORMAT:
        raise ArtefactError(f"format {body.get('format')}, this version reads {FORMAT}", where=path, fix=_AGAIN)
    if not _well_formed(body):
        raise ArtefactError("the manifest is not one of ours", where=path, fix=_AGAIN)
    if kind is not None and body["kind"] != kind:
        raise ArtefactError(f"holds '{body['kind']}', expected '{kind}'", where=folder, fix="name another folder")
    return Manifest(folder, body["kind"], body["key"], body["meta"], body["files"])


def _well_formed(body: dict[str, Any]) -> bool:
    """Types as `publish` writes them, and no file name that leaves the folder: the seal proves neither."""
    types = {"kind": str, "key": str, "meta": dict, "files": dict}
    if not all(isinstance(body.get(name), kind) for name, kind in types.items()):
        return False
    for name, entry in body["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name or "\0" in name or not isinstance(entry, dict):
            return False
        blocks = entry.get("xxh3")
        if not (
            isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str) and isinstance(blocks, list)
        ):
            return False
        if len(blocks) != -(-entry["size"] // BLOCK):
            return False
    return True


def check_files(manifest: Manifest, *, full: bool) -> None:
    """Every file compared with the manifest: size and XXH3 blocks always, SHA-256 too when `full`."""
    for name, expected in manifest.files.items():
        path = manifest.folder / name
        try:
            _check_file(path, expected, full=full)
        except OSError as error:
            raise ArtefactError(f"cannot be read: {error.strerror}", where=path, fix=_AGAIN) from error


def _check_file(path: Path, expected: dict[str, Any], *, full: bool) -> None:
    if not path.is_file():
        raise ArtefactError("file is missing", where=path, fix=_AGAIN)
    if (size := path.stat().st_size) != expected["size"]:
        raise ArtefactError(f"{size} bytes, the manifest says {expected['size']}", where=path, fix=_AGAIN)
    sha = hashlib.sha256() if full else None
    with path.open("rb") as file:
        for number, block in enumerate(expected["xxh3"]):
            chunk = file.read(BLOCK)
            if xxhash.xxh3_64_hexdigest(chunk) != block:
                raise ArtefactError(f"block {number} is damaged", where=path, fix=_AGAIN)
            if sha:
                sha.update(chunk)
    if sha and sha.hexdigest() != expected["sha256"]:
        raise ArtefactError("SHA-256 differs", where=path, fix=_AGAIN)
