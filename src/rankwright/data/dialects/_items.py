"""What every dialect of training data is read into: queries, documents, judgements and teacher scores, one by one."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import xxhash

from ...types import Document
from .._fields import check_empty, check_grade, check_id, check_score, check_text, check_title
from .._lines import PACKED
from ..formats import read_corpus, read_queries
from ..policy import Reading, shown

_SUFFIXES = {".jsonl", ".ndjson", ".json", ".tsv", ".txt", ".csv", ".parquet", ".pq", ".arrow"}
_COMPANION = re.compile(r"(corpus|collection|documents|queries|topics)([._-].*)?")
_PART = re.compile(r"[-_]?\d{3,}-of-\d{3,}\Z")
SAMPLES = "samples.tsv"  # queries that are wordings of one question
SCORES = "scores.tsv"  # a teacher's scores of pairs, beside any layout
_NOTES = ("manifest.json", "state.json", "dataset_info.json", "dataset_dict.json", SCORES, SAMPLES)
_BYTE_DATASET = ("data.pkl", "idxs.pkl")  # samples, and where each begins
_PURPOSE = {"data", "qrels", "qrel", "pairs", "scores", "triples", "nway"}
JUDGED_ABOVE, JUDGED_BELOW = 1.0, 0.0  # grades of positives and negatives where a dialect has no others


class Query(NamedTuple):
    """The text of a query."""

    id: str
    text: str


class Judgement(NamedTuple):
    """How relevant a document is to a query; `split` is None where the dialect does not say."""

    query: str
    doc: str
    grade: float
    split: str | None = None


class Wording(NamedTuple):
    """A query that is one wording among several of the same sample."""

    query: str
    sample: str


class Score(NamedTuple):
    """What a teacher scored a pair."""

    query: str
    doc: str
    score: float


class Ranked(NamedTuple):
    """A document in a ranking of a query; a higher score stands before a lower one."""

    query: str
    doc: str
    score: float


class Answered(NamedTuple):
    """What answers a question; `split` is None where the dialect does not say."""

    query: str
    answers: tuple[str, ...]
    split: str | None = None


Item = Query | Document | Judgement | Wording | Score | Ranked | Answered
Stream = Iterator[tuple[str, Item]]  # (file:line, item)


class Dialect(ABC):
    """One way in which training data is laid out.

    Attributes:
        name: as ``--from`` takes it.
        layout: what it looks like, in a few words.
        separate: which texts are never in its files: "corpus", "queries", both or none.
        own_texts: files called corpus or documents beside the rows are its own to read.
    """

    name: ClassVar[str]
    layout: ClassVar[str]
    separate: ClassVar[frozenset[str]] = frozenset()
    own_texts: ClassVar[bool] = False

    @abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether the file or folder looks like this dialect by its first record; never raises."""

    @abstractmethod
    def read(self, path: Path, reading: Reading) -> Stream:
        """Everything in it, in its order, in constant memory; items may repeat.

        Raises:
            DataError: while iterating, a problem of policy.py, with ``file:line``, the value and the fix.
        """


def content_id(title: str, text: str) -> str:
    """The id of a text that came without one: equal texts have equal ids (XXH3-128)."""
    return xxhash.xxh3_128_hexdigest(f"{len(title)} {title}{text}".encode())


class Record:
    """One record of a file and the rules by which its fields are read."""

    def __init__(self, fields: dict[str, Any], where: str, reading: Reading) -> None:
        self.fields, self.where, self.reading = fields, where, reading

    def get(self, *names: str) -> Any:
        """The first of these fields that is there, or None."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def id(self, value: Any, name: str) -> str | None:
        """An id, also where it is written as a whole number; None where lenient reading skips it."""
        return checked_id(value, name, self.where, self.reading)

    def query(self, key: Any, text: Any) -> Query | None:
        """A query; without a key its id is made of its text."""
        text = check_text(text, self.where, self.reading)
        if text is None:
            return None
        check_empty("", text, self.where, self.reading)
        key = content_id("", text) if key is None else self.id(key, "query id")
        return None if key is None else Query(key, text)

    def document(self, key: Any, title: Any, text: Any) -> Document | None:
        """A document; without a key its id is made of its title and text."""
        text = check_text(text, self.where, self.reading)
        if text is None:
            return None
        title = check_title(title, self.where, self.reading)
        check_empty(title, text, self.where, self.reading)
        key = content_id(title, text) if key is None else self.id(key, "document id")
        return None if key is None else Document(key, title, text)

    def list(self, name: str) -> list[Any]:
        """A list; absent and null are empty."""
        value = self.fields.get(name)
        if value is None or isinstance(value, list):
            return value or []
        self.wrong(name, "a list", value)
        return []

    def scores(self, name: str, size: int) -> list[float | None]:
        """One score a document; absent and null: None for each."""
        values = self.list(name)
        if not values:
            return [None] * size
        if len(values) != size:
            what = f"{size} documents but {len(values)} {name}"
            self.reading.problem("wrong number of columns", what, where=self.where, fix="write one score a document")
            return [None] * size
        return [None if value is None else self.score(value) for value in values]

    def score(self, value: Any) -> float | None:
        return check_score(value, self.where, self.reading)

    def grade(self, value: Any) -> float | None:
        return check_grade(value, self.where, self.reading)

    def wrong(self, name: str, wanted: str, value: Any) -> None:
        what, fix = f"{name} is not {wanted} but {shown(value)}", f"write {wanted} here"
        self.reading.problem("wrong type", what, where=self.where, fix=fix)


def checked_id(value: Any, name: str, where: str, reading: Reading) -> str | None:
    """An id, also where it is written as a whole number; None where lenient reading skips it."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        value = str(value)
    return check_id(value, name, where, reading)


# --- files ------------------------------------------------------------------------------------------------------------


def data_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder that hold rows: neither texts by id nor anything hidden."""
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():  # splits as the `datasets` library saves them
        return [file for folder in sorted(path.iterdir()) if folder.is_dir() for file in data_files(folder)]
    if all((path / name).is_file() for name in _BYTE_DATASET):
        return [path / _BYTE_DATASET[0]]
    files = sorted(file for file in path.iterdir() if file.is_file() and _suffix(file) in _SUFFIXES)
    return [file for file in files if not _COMPANION.fullmatch(_stem(file)) and _ours(file)]


def text_files(path: Path, role: str) -> list[Path]:
    """The files of texts by id, in the folder or beside the file; `role` is "corpus" or "queries"."""
    folder = path if path.is_dir() else path.parent
    names = ("corpus", "collection", "documents") if role == "corpus" else ("queries", "topics")
    there = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    fitting = [f for f in there if _COMPANION.fullmatch(_stem(f)) and _stem(f).startswith(names) and f != path]
    return [file for file in fitting if _suffix(file) in _SUFFIXES]


def read_text_file(path: Path, role: str, reading: Reading) -> Stream:
    """The documents or the queries of one file of texts by id."""
    if role == "corpus":
        yield from ((str(path), document) for document in read_corpus(path, reading))
    else:
        yield from ((str(path), Query(key, text)) for key, text in read_queries(path, reading))


def split_of(file: Path, source: Path) -> str | None:
    """The split that a file's name tells, where a folder was given: ``dev.small`` of ``qrels.dev.small.tsv``."""
    if not source.is_dir():
        return None
    if file.parent != source:
        return file.parent.name
    words = re.split(r"[._-]", _PART.sub("", _stem(file)))
    return ".".join(word for word in words if word and word not in _PURPOSE) or None


def _ours(file: Path) -> bool:
    return not file.name.startswith(".") and file.name not in _NOTES


def _suffix(path: Path) -> str:
    return Path(path.stem if path.suffix in PACKED else path.name).suffix.lower()


def _stem(path: Path) -> str:
    name = Path(path.stem) if path.suffix in PACKED else Path(path.name)
    return name.stem
