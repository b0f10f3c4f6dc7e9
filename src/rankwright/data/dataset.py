"""A data set as people have it - corpus, queries and qrels in a folder or on the hub - opened through a cache."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import xxhash

from .. import storage
from ..errors import ArtefactError, DataError, RemoteError
from ..names import picked
from ..progress import track
from ..types import Document, Qrels, Run
from .answer_files import read_answers
from .corpus import KIND, Corpus
from .formats import read_corpus, read_qrels, read_queries
from .policy import Reading, shown

RANKING = "ranking.trec"  # an order of documents for each query
_VERSION = 2  # of what the cache holds: raise it when reading the same file gives something else
_PACKED = ("", ".gz", ".zst")
_CORPUS = [f"corpus.{kind}{packed}" for kind in ("jsonl", "tsv", "parquet") for packed in _PACKED]
_CORPUS += [f"collection.tsv{packed}" for packed in _PACKED]
_QUERIES = [f"queries.{kind}{packed}" for kind in ("jsonl", "tsv", "parquet") for packed in _PACKED]
_QRELS = re.compile(r"(?P<split>.+?)\.(tsv|txt|qrels|jsonl|parquet)(\.gz|\.zst)?")
_ANSWERS = re.compile(r"(?P<split>.+?)\.(tsv|csv|txt|jsonl|json)(\.gz|\.zst)?")
_Table = TypeVar("_Table", Run, Qrels)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def default_cache() -> Path:
    """``$RANKWRIGHT_CACHE``, or ``~/.cache/rankwright``."""
    return Path(os.environ.get("RANKWRIGHT_CACHE") or Path.home() / ".cache" / "rankwright")


@dataclass(frozen=True)
class Dataset:
    """Texts and judgements of one collection; texts are memory-mapped, judgements are read when they are asked for.

    Attributes:
        name: as the user wrote it.
        corpus: the documents.
        queries: the queries of all splits, as documents without a title.
        files: split -> its qrels file.
    """

    name: str
    folder: Path
    corpus: Corpus
    queries: Corpus
    files: dict[str, Path]
    cache: Path
    reading: Reading

    @classmethod
    def open(cls, path: str | Path, *, reading: Reading | None = None, cache: str | Path | None = None) -> Dataset:
        """Open a local folder, a hub id (``org/name@revision``) or what comes along (``bundled:scifact``).

        The folder holds ``corpus.{jsonl,tsv,parquet}`` or ``collection.tsv``, ``queries.{jsonl,tsv,parquet}`` and
        ``qrels/<split>.{tsv,txt,qrels,jsonl,parquet}``; text files may end in .gz or .zst. Corpus and queries are
        converted once and kept in `cache`, keyed by the hash of the files' bytes.

        Raises:
            DataError: no such folder, a file is missing or there twice, or a problem of policy.py.
            RemoteError: the hub has no such data set or cannot be reached.
            ResourceError: another process is converting the same file now.
        """
        reading, cache = reading or Reading(), Path(cache) if cache else default_cache()
        folder = _find(str(path))
        corpus, queries = _only(folder, _CORPUS, "corpus"), _only(folder, _QUERIES, "queries")
        return cls(
            name=str(path), folder=folder, files=_splits(folder, "qrels", _QRELS), cache=cache, reading=reading,
            corpus=_converted(corpus, "corpus", reading=reading, cache=cache),
            queries=_converted(queries, "queries", reading=reading, cache=cache),
        )  # fmt: skip

    @property
    def splits(self) -> list[str]:
        """The names of the splits that there are judgements for, in alphabetical order."""
        return list(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything in the data set: texts, ids and the bytes of the qrels files."""
        parts = [self.corpus.fingerprint, self.queries.fingerprint]
        parts += [f"{split}={file_hash(path, cache=self.cache)}" for split, path in self.files.items()]
        return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())

    def file(self, split: str) -> Path:
        """The qrels file of a split.

        Raises:
            DataError: no such split.
        """
        if split not in self.files:
            there = ", ".join(self.files) or "none"
            close = difflib.get_close_matches(split, self.files, 1)
            fix = f"did you mean '{close[0]}'?" if close else "use one of these, or add the file qrels/<split>.tsv"
            raise DataError(f"no split '{split}'; splits: {there}", where=self.folder, fix=fix)
        return self.files[split]

    def qrels(self, split: str, *, reading: Reading | None = None) -> Qrels:
        """The judgements of one split, see `read_qrels`.

        Raises:
            DataError: no such split, or a problem of policy.py.
        """
        return self.read_qrels(self.file(split), reading=reading)

    def read_qrels(self, path: str | Path, *, reading: Reading | None = None) -> Qrels:
        """Any qrels file over this data set's ids, checked against them.

        A judged document that the corpus lacks is an error; when lenient it is counted and stays, for measures count
        it as not found. A judged query without a text is an error; when lenient it is counted and left out.

        Args:
            reading: another strictness than the data set was opened with.

        Raises:
            DataError: a problem of policy.py.
        """
        path, reading = Path(path), reading or self.reading
        return self.checked(read_qrels(path, reading), path, reading=reading)

    @property
    def ranking(self) -> Path:
        """Where an order of documents for each query stands, if the data set has one."""
        return self.folder / RANKING

    @property
    def answered(self) -> list[str]:
        """The splits that have answers of their own."""
        return list(_splits(self.folder, "answers", _ANSWERS))

    def answers(self, split: str, *, path: str | Path | None = None) -> dict[str, tuple[str, ...]]:
        """Query id -> answers, of ``answers/<split>.{jsonl,json,tsv,csv}`` or of another file, see `read_answers`.

        Raises:
            DataError: no such file, or a problem of policy.py.
        """
        files = _splits(self.folder, "answers", _ANSWERS)
        if path is None and split not in files:
            there = ", ".join(files) or "none"
            fix = f"add answers/{split}.jsonl (_id, answers), or name a file of questions with answers"
            raise DataError(f"no answers of a split '{split}'; there are: {there}", where=self.folder, fix=fix)
        return read_answers(path or files[split], self.reading, queries=self.queries)

    def checked(self, table: _Table, path: Path, *, reading: Reading) -> _Table:
        """A table that was read from `path`, its ids checked against this data set, see `read_qrels`.

        Raises:
            DataError: a problem of policy.py.
        """
        _report(table.docs, self.corpus, "missing document", "the corpus", where=path, reading=reading)
        there = _report(table.queries, self.queries, "missing query", "the queries", where=path, reading=reading)
        return table if there.all() else select_queries(table, np.flatnonzero(there))


def select_queries(table: _Table, rows: np.ndarray) -> _Table:
    """The given query rows of a table, in that order."""
    sizes = np.diff(table.offsets)[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    source = np.repeat(table.offsets[rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
    queries = tuple(picked(table.queries, rows))
    return type(table)(queries, table.docs, offsets, table.columns[source], table.values[source])


def rows_where(table: _Table, keep: np.ndarray) -> _Table:
    """The rows of a table for which `keep` is true (bool [n]); its queries and documents stay, in use or not."""
    group = np.repeat(np.arange(len(table.queries)), np.diff(table.offsets))[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(table.queries)))]).astype(np.int64)
    return type(table)(table.queries, table.docs, offsets, table.columns[keep], table.values[keep])


def _report(ids: Sequence[str], there: Corpus, kind: str, place: str, *, where: Path, reading: Reading) -> np.ndarray:
    """Which ids exist (bool [n]); those that do not are problems."""
    exist = there.rows(ids) >= 0
    missing = np.flatnonzero(~exist)
    for i in missing.tolist():
        noun = kind.removeprefix("missing ")
        more = f" (nor {len(missing) - 1:,} others)" if len(missing) > 1 and not reading.lenient else ""
        reading.problem(
            kind, f"the judged {noun} {shown(ids[i])} is not among {place}{more}",
            where=where, fix=f"add it to {place} or remove its rows",
        )  # fmt: skip
    return exist


# --- finding the files -----------------------------------------------------------------------------------------------


def _find(name: str) -> Path:
    if name.startswith("bundled:"):
        inside = Path(__file__).parent.parent / "bundled"
        there = sorted(path.name for path in inside.iterdir() if path.is_dir())
        if name.removeprefix("bundled:") not in there:
            raise DataError("no such data set comes along", where=name, fix=f"bundled are: {', '.join(there)}")
        return inside / name.removeprefix("bundled:")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError("is a file, a data set is a folder", where=folder, fix=f"give {folder.parent}, if that is it")
    if not _HUB_ID.fullmatch(name) or folder.parent.is_dir():
        siblings = [str(path) for path in folder.parent.glob("*/")] if folder.parent.is_dir() else []
        close = difflib.get_close_matches(str(folder), siblings, 1)
        fix = f"did you mean '{close[0]}'?" if close else "give a folder with corpus, queries and qrels, or a hub id"
        raise DataError("no such folder", where=name, fix=fix)
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repo, repo_type="dataset", revision=revision or None,
                allow_patterns=["corpus*", "collection*", "queries*", "qrels/*", "answers/*"],
            )
        )  # fmt: skip
    except (OSError, ValueError) as error:  # all of the hub's own errors are one or the other
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise RemoteError(
            f"no such folder, and no data set from the hub: {reason}", where=name,
            fix="check the path, or the id (org/name@revision), the network and the access token",
        ) from error  # fmt: skip


def _only(folder: Path, names: list[str], what: str) -> Path:
    """The one file of these names that is there."""
    there = [folder / name for name in names if (folder / name).is_file()]
    if len(there) == 1:
        return there[0]
    if there:
        both = " and ".join(path.name for path in there)
        raise DataError(f"{both} are both there: which are the {what}?", where=folder, fix="keep one of them")
    wanted = ", ".join(name for name in names if name.endswith(("jsonl", "tsv", "parquet")))
    raise DataError(f"no {what} file", where=folder, fix=f"add one of {wanted} (the text files also as .gz or .zst)")


def _splits(folder: Path, inside: str, pattern: re.Pattern[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted((folder / inside).glob("*")):
        match = pattern.fullmatch(path.name)
        if match is None or not path.is_file() or path.name.startswith("."):
            continue
        if (split := match["split"]) in files:
            both = f"{files[split].name} and {path.name}"
            raise DataError(f"{both} are both there: which is the split '{split}'?", where=path, fix="keep one of them")
        files[split] = path
    return dict(sorted(files.items()))


# --- the cache -------------------------------------------------------------------------------------------------------


def file_hash(path: str | Path, *, cache: str | Path | None = None) -> str:
    """XXH3-128 of a file's bytes; remembered in `cache` for as long as path, size and time of change stay the same.

    Raises:
        DataError: the file cannot be read.
    """
    path, cache = Path(path).resolve(), Path(cache) if cache else default_cache()
    note = cache / "hashes" / f"{xxhash.xxh3_128_hexdigest(os.fsencode(path))}.json"
    try:
        state = path.stat()
        known = {"path": str(path), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
        try:
            record = storage.read_json(note)
            if isinstance(record, dict) and {k: record.get(k) for k in known} == known:
                return str(record["xxh3"])
        except (ArtefactError, KeyError):
            pass
        digest = xxhash.xxh3_128()
        with path.open("rb") as file:
            while chunk := file.read(storage.BLOCK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, fix="check the file") from None
    storage.write_json(note, {**known, "xxh3": digest.hexdigest()})
    return digest.hexdigest()


def _converted(path: Path, role: str, *, reading: Reading, cache: Path) -> Corpus:
    """The file as a memory-mapped corpus, from the cache where it is; problems met then are counted now."""
    source = f"{_VERSION} {role} {''.join(path.suffixes)} {reading.lenient} {file_hash(path, cache=cache)}"
    key = xxhash.xxh3_128_hexdigest(source.encode())
    folder = cache / role / key
    if storage.is_current(folder, KIND, key):
        corpus = Corpus.open(folder)
    else:
        fresh = Reading(lenient=reading.lenient)
        records = track(_records(path, role, fresh), f"read {path.name}", unit="records")
        corpus = Corpus.build(folder, records, key=key, reading=fresh, where=path)
    reading.include(corpus.problems)
    return corpus


def _records(path: Path, role: str, reading: Reading) -> Iterator[Document]:
    if role == "corpus":
        yield from read_corpus(path, reading)
    else:
        yield from (Document(key, "", text) for key, text in read_queries(path, reading))
