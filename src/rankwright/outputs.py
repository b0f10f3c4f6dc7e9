"""Where a verb may write, checked before the work, and the command line that it suggests next."""

from __future__ import annotations

import shlex
from pathlib import Path

from . import storage
from .errors import UsageError
from .ledger import fingerprint


def command(*words: str | Path) -> str:
    """A command line that a shell takes as it is."""
    return shlex.join(["rankwright", *map(str, words)])


def new_file(name: str) -> Path:
    """A file to write, checked before the work that makes it.

    Raises:
        UsageError: it cannot be a text file of ours.
    """
    path = Path(name)
    if not path.name or path.is_dir():
        raise UsageError("is a folder, a file is written here", where=name, fix="name a file, e.g. --out run.trec")
    if path.suffix in (".parquet", ".json", ".jsonl", ".yaml", ".yml"):
        raise UsageError(f"text is written here, not {path.suffix[1:]}", where=name, fix="e.g. --out run.trec")
    return path


def new_folder(name: str) -> Path:
    """A folder to publish, checked before the work that fills it.

    Raises:
        UsageError: a file or somebody else's folder is there.
    """
    path = Path(name)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / storage.MANIFEST).is_file()):
        raise UsageError("exists and is no artefact", where=name, fix="choose another folder, or remove this one")
    return path


def workplace(out: str, cache: Path) -> Path:
    """Where the work for an output is kept until it is there: in the cache, by the output's path."""
    return cache / "work" / fingerprint(str(Path(out).absolute()))
