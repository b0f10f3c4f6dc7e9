"""A data set in the layouts that other libraries train from; texts are looked up as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...names import picked
from ...progress import track
from ...storage import write_file
from ...types import Document, Qrels, Run
from ..dataset import Dataset
from ..formats import read_run, write_qrels, write_run
from ..policy import Reading
from ..query_files import read_topics, write_topics
from ..scores import read_scores
from ._collecting import Evidence, Lines, write_answers, write_evidence, write_scores
from ._holdout import HoldOut
from ._items import SAMPLES, SCORES

_BREAKS = re.compile(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")

TREC_SCORES = "scores.trec"


@dataclass(frozen=True)
class Collection:
    """What there is to write: texts, judgements by split, and perhaps a teacher's scores and a ranking."""

    dataset: Dataset
    scores: Run | None
    ranking: Run | None = None

    @classmethod
    def open(cls, folder: str | Path, reading: Reading, *, cache: Path | None = None) -> Collection:
        """A data set, with the teacher's scores (``scores.tsv`` or a run) and the ranking that lie beside it."""
        dataset = Dataset.open(folder, reading=reading, cache=cache)
        scores = ranking = None
        for name in (TREC_SCORES, SCORES):
            if (path := dataset.folder / name).is_file():
                found = read_scores(path, reading)
                scores = Run(found.queries, found.docs, found.offsets, found.columns, found.values)
        if (path := dataset.ranking).is_file():
            ranking = read_run(path, reading)
        return cls(dataset, scores, ranking)

    def grouped(self, split: str) -> Iterator[tuple[str, str, list[tuple[Document, float]]]]:
        """(query id, its text, judged documents with their grades); documents that the corpus lacks are left out."""
        return self._grouped(self.dataset.qrels(split), split)

    def scored(self) -> Iterator[tuple[str, str, list[tuple[Document, float]]]]:
        """The same for the teacher's scores."""
        return self._grouped(self.scores, "scores") if self.scores is not None else iter(())

    def _grouped(self, table: Qrels | Run, name: str) -> Iterator[tuple[str, str, list[tuple[Document, float]]]]:
        corpus, queries = self.dataset.corpus, self.dataset.queries
        for query, docs, values in track(table, f"write {name}", len(table.queries), "queries"):
            row = queries.row(query)
            if row is None:
                continue
            rows = corpus.rows(docs)
            found = np.flatnonzero(rows >= 0).tolist()
            yield query, queries[row].text, [(corpus[int(rows[i])], float(values[i])) for i in found]

    def score_of(self, query: str) -> dict[str, float]:
        """Document id -> the teacher's score, for one query."""
        if self.scores is None or (row := self._score_rows.get(query)) is None:
            return {}
        span = slice(self.scores.offsets[row], self.scores.offsets[row + 1])
        docs = picked(self.scores.docs, self.scores.columns[span])
        return dict(zip(docs, self.scores.values[span].tolist()))

    @cached_property
    def _score_rows(self) -> dict[str, int]:
        assert self.scores is not None
        return self.scores.rows()


def joined(document: Document) -> str:
    """Title and text as one string, for layouts that have no titles."""
    return f"{document.title} {document.text}".strip()


# --- the layouts ------------------------------------------------------------------------------------------------------


def _write_records(path: Path, records: Iterator[Any]) -> None:
    with write_file(path) as raw:
        lines = Lines(raw)
        for record in records:
            lines.add(record)
        lines.flush()


def _splits_of(data: Collection) -> list[str]:
    """The splits, for layouts whose queries stand beside their judgements alone."""
    if not data.dataset.splits:
        fix = "write beir, trove, colbert or sentence-transformers-lists, which hold scores without judgements"
        raise DataError("there are no judgements, and this layout is made of them", where=data.dataset.folder, fix=fix)
    return data.dataset.splits


def _texts(data: Collection, folder: Path, id_name: str, text_name: str) -> None:
    corpus = ({id_name: d.id, "title": d.title, text_name: d.text} for d in track(data.dataset.corpus, "write corpus"))
    _write_records(folder / "corpus.jsonl", corpus)


def _queries(data: Collection, folder: Path) -> None:
    _write_records(folder / "queries.jsonl", ({"_id": q.id, "text": q.text} for q in data.dataset.queries))


def _score_file(data: Collection, folder: Path) -> None:
    if data.scores is not None:
        write_scores(folder / SCORES, data.scores)


def write_beir_folder(data: Collection, folder: Path, held: HoldOut | None = None) -> dict[str, int]:
    """A data set: texts, ``qrels/``, ``answers/``, ``scores.tsv``, ``ranking.trec`` and ``samples.tsv``."""
    _texts(data, folder, "_id", "text")
    _queries(data, folder)
    for split in data.dataset.answered:
        write_answers(folder / "answers" / f"{split}.jsonl", data.dataset.answers(split))
    if (samples := data.dataset.folder / SAMPLES).is_file():
        write_topics(folder / SAMPLES, read_topics(samples).items())
    judged = {split: data.dataset.qrels(split) for split in data.dataset.splits}
    found = Evidence(judged, data.scores, data.ranking)
    return write_evidence(folder, found, held, where=str(data.dataset.folder))


def write_trec(data: Collection, folder: Path) -> None:
    """``corpus.jsonl`` (id, title, contents), ``queries.tsv``, ``qrels/<split>.qrels`` and ``scores.trec``."""
    _texts(data, folder, "id", "contents")
    _tsv(folder / "queries.tsv", ((query.id, query.text) for query in data.dataset.queries))
    for split in data.dataset.splits:
        write_qrels(folder / "qrels" / f"{split}.qrels", data.dataset.qrels(split), dialect="trec")
    if data.scores is not None:
        write_run(folder / TREC_SCORES, data.scores, tag="teacher")


def write_trove(data: Collection, folder: Path) -> None:
    """``corpus.jsonl``, ``queries.jsonl`` and ``<split>_qrels.jsonl`` grouped by query."""
    _texts(data, folder, "_id", "text")
    _queries(data, folder)
    for split in data.dataset.splits:
        rows = (
            {"qid": query, "docid": docs, "score": [int(grade) for grade in grades]}
            for query, docs, grades in data.dataset.qrels(split)
        )
        _write_records(folder / f"{split}_qrels.jsonl", rows)
    _score_file(data, folder)


def write_tevatron(data: Collection, folder: Path) -> None:
    """``<split>.jsonl`` with passages written out, and ``corpus.jsonl``."""
    _texts(data, folder, "docid", "text")
    for split in _splits_of(data):
        _write_records(folder / f"{split}.jsonl", _tevatron_rows(data, split))
    _score_file(data, folder)


def _tevatron_rows(data: Collection, split: str) -> Iterator[Any]:
    for query, text, judged in data.grouped(split):
        sides: list[list[dict[str, str]]] = [[], []]
        for doc, grade in judged:
            sides[grade <= 0].append({"docid": doc.id, "title": doc.title, "text": doc.text})
        yield {"query_id": query, "query": text, "positive_passages": sides[0], "negative_passages": sides[1]}


def write_flagembedding(data: Collection, folder: Path) -> None:
    """``<split>.jsonl`` with query, pos and neg; with pos_scores and neg_scores where the teacher scored them all."""
    for split in _splits_of(data):
        _write_records(folder / f"{split}.jsonl", _flag_rows(data, split))


def _flag_rows(data: Collection, split: str) -> Iterator[Any]:
    for query, text, judged in data.grouped(split):
        scores = data.score_of(query)
        sides = [[doc for doc, grade in judged if grade > 0], [doc for doc, grade in judged if grade <= 0]]
        row: dict[str, Any] = {"query": text, "pos": list(map(joined, sides[0])), "neg": list(map(joined, sides[1]))}
        if judged and all(doc.id in scores for doc, _ in judged):
            row["pos_scores"], row["neg_scores"] = ([scores[doc.id] for doc in side] for side in sides)
        yield row


def write_sentence_transformers(data: Collection, folder: Path) -> None:
    """``<split>.jsonl`` (anchor, positive, negative), ``<split>-pairs.jsonl`` where a query has no negatives.

    A query has as many rows as it takes to name each of its documents once. ``scores.jsonl`` holds pairs with a
    teacher's score.
    """
    for split in data.dataset.splits:
        with ExitStack() as stack:
            files: dict[str, Lines] = {}
            for _, text, judged in data.grouped(split):
                above = [joined(doc) for doc, grade in judged if grade > 0]
                below = [joined(doc) for doc, grade in judged if grade <= 0]
                name = f"{split}.jsonl" if below else f"{split}-pairs.jsonl"
                if above and name not in files:
                    files[name] = Lines(stack.enter_context(write_file(folder / name)))
                for i in range(max(len(above), len(below)) if above else 0):
                    row = {"anchor": text, "positive": above[i % len(above)]}
                    files[name].add(row | ({"negative": below[i % len(below)]} if below else {}))
            for file in files.values():
                file.flush()
    _scored_pairs(data, folder)


def write_sentence_transformers_lists(data: Collection, folder: Path) -> None:
    """``<split>.jsonl`` (query, docs, labels): every grade and list length is kept; and ``scores.jsonl``."""
    for split in data.dataset.splits:
        rows = (
            {"query": text, "docs": [joined(doc) for doc, _ in judged], "labels": [int(grade) for _, grade in judged]}
            for _, text, judged in data.grouped(split)
        )
        _write_records(folder / f"{split}.jsonl", rows)
    _scored_pairs(data, folder)


def _scored_pairs(data: Collection, folder: Path) -> None:
    if data.scores is not None:
        rows = (
            {"sentence1": text, "sentence2": joined(doc), "score": score}
            for _, text, scored in data.scored()
            for doc, score in scored
        )
        _write_records(folder / "scores.jsonl", rows)


def write_colbert(data: Collection, folder: Path) -> None:
    """``collection.tsv``, ``queries.tsv``, ``<split>.triples.jsonl`` and ``nway.jsonl``.

    ColBERT's passage ids are line numbers from 0 and its query ids are numbers: ``doc_ids.tsv`` and ``query_ids.tsv``
    say which is which. Tabs and line ends within a text become a space.
    """
    corpus, queries = data.dataset.corpus, data.dataset.queries
    docs = ((str(row), doc.text, doc.title) for row, doc in enumerate(track(corpus, "write corpus")))
    _tsv(folder / "collection.tsv", docs)
    _tsv(folder / "queries.tsv", ((str(row), query.text) for row, query in enumerate(queries)))
    _tsv(folder / "doc_ids.tsv", ((str(row), key) for row, key in enumerate(corpus.ids)))
    _tsv(folder / "query_ids.tsv", ((str(row), key) for row, key in enumerate(queries.ids)))
    for split in data.dataset.splits:
        _write_records(folder / f"{split}.triples.jsonl", _triples(data, split))
    if data.scores is not None:
        rows = (
            [queries.row(query), *([corpus.row(doc.id), score] for doc, score in scored)]
            for query, _, scored in data.scored()
        )
        _write_records(folder / "nway.jsonl", rows)


def _triples(data: Collection, split: str) -> Iterator[list[int | None]]:
    """[query, relevant, other]; as many for a query as it takes to name each of its documents once."""
    corpus, queries = data.dataset.corpus, data.dataset.queries
    for query, _, judged in data.grouped(split):
        above = [corpus.row(doc.id) for doc, grade in judged if grade > 0]
        below = [corpus.row(doc.id) for doc, grade in judged if grade <= 0]
        for i in range(max(len(above), len(below)) if above else 0):
            yield [queries.row(query), above[i % len(above)], *([below[i % len(below)]] if below else [])]


def _tsv(path: Path, rows: Iterator[tuple[str, ...]]) -> None:
    with write_file(path) as raw:
        lines = Lines(raw)
        for row in rows:
            lines.write("\t".join(_BREAKS.sub(" ", field) for field in row) + "\n")
        lines.flush()


WRITERS: dict[str, Callable[[Collection, Path], object]] = {
    "beir": write_beir_folder,
    "trec": write_trec,
    "trove": write_trove,
    "tevatron": write_tevatron,
    "flagembedding": write_flagembedding,
    "sentence-transformers": write_sentence_transformers,
    "sentence-transformers-lists": write_sentence_transformers_lists,
    "colbert": write_colbert,
}
