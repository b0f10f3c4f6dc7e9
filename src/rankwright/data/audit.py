"""The data checks of `rankwright doctor`: counts, examples and warnings as plain values; nothing is printed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xxhash

from .. import signals
from ..names import picked
from ..progress import track
from ..types import Qrels, Run
from .corpus import Corpus
from .dataset import Dataset
from .policy import Reading

_EXAMPLES = 5
_PUNCTUATION = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Finding:
    """How often something occurs, and the first few places."""

    count: int = 0
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: Iterable[str]) -> Finding:
        count, examples = 0, []
        for item in items:
            count += 1
            if count <= _EXAMPLES:
                examples.append(item)
        return cls(count, tuple(examples))


@dataclass(frozen=True)
class TextAudit:
    """The texts of one side.

    Attributes:
        empty: texts of nothing but white space (title and text).
        duplicates: texts beyond the first of each group that differ in case, spaces and punctuation at most.
        limit: tokens that the ranker reads; None: unknown.
        truncated: share of texts that are longer than `limit`; None: unknown.
        lengths: tokens at the 50th, 90th, 99th percentile and the maximum.
    """

    texts: int
    empty: Finding
    duplicates: Finding
    limit: int | None
    truncated: float | None
    lengths: dict[str, int]


@dataclass(frozen=True)
class SplitAudit:
    """The judgements of one split.

    Attributes:
        without_positive: queries with no grade above 0.
        contradictions: pairs of the same two texts (under other ids) that have different grades.
        list_lengths: judged documents of a query -> queries.
        positives: documents with a grade above 0 of a query -> queries.
        grades: grade -> pairs.
    """

    queries: int
    pairs: int
    missing_documents: Finding
    missing_queries: Finding
    without_positive: Finding
    contradictions: Finding
    list_lengths: dict[int, int]
    positives: dict[int, int]
    grades: dict[float, int]


@dataclass(frozen=True)
class Leak:
    """What a test split shares with the training split.

    Attributes:
        ids: queries of the same id.
        texts: queries of another id that differ in case, spaces and punctuation at most.
        pairs: pairs of such equal queries and equal documents that are judged above 0 in both splits.
    """

    ids: Finding
    texts: Finding
    pairs: Finding


@dataclass(frozen=True)
class Audit:
    """Everything that `audit` found; `warnings` says in words what deserves a look, worst first."""

    fingerprint: str
    documents: TextAudit
    queries: TextAudit
    splits: dict[str, SplitAudit]
    leaks: dict[str, Leak]
    problems: dict[str, int]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: every key a string."""
        return _plain(asdict(self))


def audit(
    dataset: Dataset,
    *,
    train_split: str | None = "train",
    test_splits: Sequence[str] = ("test",),
    query_lengths: np.ndarray | None = None,
    doc_lengths: np.ndarray | None = None,
    query_limit: int | None = None,
    doc_limit: int | None = None,
) -> Audit:
    """Check texts, judgements and the border between training and test.

    Args:
        train_split: None where nothing is trained.
        query_lengths, doc_lengths: tokens of every text before anything is cut off (int [n]); None: not measured.
        query_limit, doc_limit: tokens that the ranker reads.

    Raises:
        DataError: a split is not there, or a file cannot be read even leniently.
    """
    names = [*([train_split] if train_split else []), *test_splits]
    readings = {name: Reading(lenient=True) for name in names}  # a doctor counts what the others refuse
    tables = {name: dataset.qrels(name, reading=readings[name]) for name in names}
    docs = _hashes(dataset.corpus, "check documents")
    queries = _hashes(dataset.queries, "check queries")
    documents = _texts(dataset.corpus, docs, doc_lengths, doc_limit)
    asked = _texts(dataset.queries, queries, query_lengths, query_limit)
    pairs = {name: _Pairs.of(table, dataset, queries=queries, docs=docs) for name, table in tables.items()}
    splits = {name: _split(tables[name], pairs[name], readings[name]) for name in names}
    leaks = {}
    if train_split:
        leaks = {name: _leak(pairs[train_split], pairs[name]) for name in test_splits if name != train_split}
    problems = sum((reading.counts for reading in readings.values()), dataset.reading.counts)
    return Audit(
        fingerprint=dataset.fingerprint, documents=documents, queries=asked, splits=splits, leaks=leaks,
        problems=dict(problems), warnings=tuple(_warnings(documents, asked, splits, leaks, train_split)),
    )  # fmt: skip


# --- texts -----------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """Text without the differences that do not make another text: Unicode form, case, punctuation, spaces."""
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
    return _PUNCTUATION.sub(" ", folded).strip() or " ".join(folded.split())


def _hashes(corpus: Corpus, title: str) -> np.ndarray:
    """A 64-bit hash of each normalised text (uint64 [n]); 0: nothing but white space."""
    hashes = np.zeros(len(corpus), np.uint64)
    for row, document in enumerate(track(corpus, title, len(corpus), "texts")):
        if row % 4096 == 0:
            signals.check("run the doctor again")
        if text := normalised(f"{document.title} {document.text}"):
            hashes[row] = xxhash.xxh3_64_intdigest(text.encode()) or 1
    return hashes


def _texts(corpus: Corpus, hashes: np.ndarray, lengths: np.ndarray | None, limit: int | None) -> TextAudit:
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    repeats = np.flatnonzero((first[inverse] != np.arange(len(hashes))) & (hashes != 0)).tolist()
    truncated: float | None = None
    percentiles: dict[str, int] = {}
    if lengths is not None and len(lengths):
        marks = np.percentile(lengths, [50, 90, 99, 100], method="lower").astype(int).tolist()
        percentiles.update(zip(("50%", "90%", "99%", "max"), marks))
        truncated = None if limit is None else float(np.mean(np.asarray(lengths) > limit))
    return TextAudit(
        texts=len(corpus),
        empty=Finding.of(corpus.id(row) for row in np.flatnonzero(hashes == 0).tolist()),
        duplicates=Finding.of(f"{corpus.id(row)} = {corpus.id(int(first[inverse[row]]))}" for row in repeats),
        limit=limit,
        truncated=truncated,
        lengths=percentiles,
    )


# --- judgements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """The judged pairs of a split whose texts are there: ids, and hashes of what the texts say."""

    queries: list[str]
    docs: list[str]
    query_hashes: np.ndarray
    doc_hashes: np.ndarray
    grades: np.ndarray

    @classmethod
    def of(cls, table: Qrels, dataset: Dataset, *, queries: np.ndarray, docs: np.ndarray) -> _Pairs:
        doc_rows = dataset.corpus.rows(table.docs)[table.columns]
        of_query = np.repeat(np.arange(len(table.queries)), np.diff(table.offsets))
        query_rows = dataset.queries.rows(table.queries)[of_query]
        there = np.flatnonzero(doc_rows >= 0)
        return cls(
            picked(table.queries, of_query[there]),
            picked(table.docs, table.columns[there]),
            queries[query_rows[there]],
            docs[doc_rows[there]],
            table.values[there],
        )

    def texts(self) -> list[tuple[int, int]]:
        return list(zip(self.query_hashes.tolist(), self.doc_hashes.tolist()))


def _split(table: Qrels, pairs: _Pairs, reading: Reading) -> SplitAudit:
    sizes = np.diff(table.offsets)
    of_query = np.repeat(np.arange(len(table.queries)), sizes)
    positives = np.bincount(of_query[table.values > 0], minlength=len(table.queries))
    return SplitAudit(
        queries=len(table.queries),
        pairs=len(table),
        missing_documents=_counted(reading, "missing document"),
        missing_queries=_counted(reading, "missing query"),
        without_positive=Finding.of(picked(table.queries, np.flatnonzero(positives == 0))),
        contradictions=Finding.of(_contradictions(pairs)),
        list_lengths=_histogram(sizes),
        positives=_histogram(positives),
        grades=_histogram(table.values),
    )


def _counted(reading: Reading, kind: str) -> Finding:
    return Finding(reading.counts[kind], tuple(reading.examples.get(kind, ())))


def _contradictions(pairs: _Pairs) -> list[str]:
    first: dict[tuple[int, int], int] = {}
    found = []
    for i, texts in enumerate(pairs.texts()):
        j = first.setdefault(texts, i)
        if pairs.grades[i] != pairs.grades[j]:
            one, other = f"({pairs.queries[j]}, {pairs.docs[j]})", f"({pairs.queries[i]}, {pairs.docs[i]})"
            found.append(f"{one} has {pairs.grades[j]:g}, {other} with the same texts {pairs.grades[i]:g}")
    return found


def _leak(train: _Pairs, test: _Pairs) -> Leak:
    ids = set(train.queries)
    texts = dict(zip(train.query_hashes.tolist(), train.queries))
    known = {pair for pair, grade in zip(train.texts(), train.grades) if grade > 0}
    asked = dict(zip(test.queries, test.query_hashes.tolist()))  # each query once
    again = [(q, texts[h]) for q, h in asked.items() if h and h in texts and q not in ids]
    rows = zip(test.texts(), test.grades, test.queries, test.docs)
    return Leak(
        ids=Finding.of(query for query in asked if query in ids),
        texts=Finding.of(f"{query} = {other} of the training split" for query, other in again),
        pairs=Finding.of(f"({query}, {doc})" for pair, grade, query, doc in rows if grade > 0 and pair in known),
    )


# --- false negatives -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FalseNegatives:
    """Unjudged documents that a run prefers to a judged relevant one.

    Attributes:
        checked: queries with a relevant document in the run.
        queries: those of them with a suspect.
        suspects: (query, document) pairs, the largest lead first among the examples.
    """

    checked: int
    queries: int
    suspects: Finding


def suspected_false_negatives(run: Run, qrels: Qrels, *, margin: float = 0.0) -> FalseNegatives:
    """Documents without a judgement that `run` scores more than `margin` above the query's best relevant document.

    A query none of whose relevant documents is in the run is not looked at: there is no score to compare with.
    """
    rows = qrels.rows()
    checked, queries, suspects = 0, 0, []
    for query, docs, scores in run:
        if query not in rows:
            continue
        span = slice(qrels.offsets[rows[query]], qrels.offsets[rows[query] + 1])
        grades = dict(zip(picked(qrels.docs, qrels.columns[span]), qrels.values[span].tolist()))
        best = max((s for d, s in zip(docs, scores.tolist()) if grades.get(d, 0) > 0), default=None)
        if best is None:
            continue
        checked += 1
        leads = [(s - best, d) for d, s in zip(docs, scores.tolist()) if d not in grades and s > best + margin]
        queries += bool(leads)
        suspects += [(lead, query, doc) for lead, doc in leads]
    suspects.sort(key=lambda suspect: (-suspect[0], *suspect[1:]))
    return FalseNegatives(checked, queries, Finding.of(f"({q}, {d}) leads by {lead:.4g}" for lead, q, d in suspects))


# --- words -----------------------------------------------------------------------------------------------------------


def _warnings(
    documents: TextAudit,
    queries: TextAudit,
    splits: dict[str, SplitAudit],
    leaks: dict[str, Leak],
    train_split: str | None,
) -> Iterable[str]:
    for name, leak in leaks.items():
        for what, finding in (("queries", leak.ids), ("query texts", leak.texts), ("relevant pairs", leak.pairs)):
            if finding.count:
                yield f"{finding.count:,} {what} of '{name}' are in '{train_split}' too: the test is not unseen"
    for name, split in splits.items():
        for finding, what in (
            (split.missing_queries, "judged queries have no text"),
            (split.missing_documents, "judged documents are not in the corpus"),
            (split.contradictions, "judgements contradict another one of the same two texts"),
            (split.without_positive, "queries have no relevant document"),
        ):
            if finding.count:
                yield f"'{name}': {finding.count:,} {what}"
    for texts, noun in ((documents, "documents"), (queries, "queries")):
        if texts.empty.count:
            yield f"{texts.empty.count:,} {noun} are empty"
        if texts.duplicates.count:
            yield f"{texts.duplicates.count:,} {noun} repeat the text of another one"
        if texts.truncated and texts.truncated >= 0.01:
            yield f"{texts.truncated:.0%} of the {noun} are longer than {texts.limit} tokens and are cut off"


def _histogram(values: np.ndarray) -> dict[Any, int]:
    kinds, counts = np.unique(values, return_counts=True)
    return dict(zip(kinds.tolist(), counts.tolist()))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"{k:g}" if isinstance(k, float) else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
