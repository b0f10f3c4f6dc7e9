"""Real training tuples for benchmarks: query, its relevant document, a BM25 negative, from a collection at hand."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from rankwright import assemble
from rankwright.data import Dataset, Reading
from rankwright.search import BM25

from .common import DATA

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"


def collections() -> list[str]:
    """SciFact is bundled; others are used where they stand beside the repository."""
    found = ["bundled:scifact", str(DATA / "cranfield"), str(DATA / "medquad")]
    return [name for name in found if name.startswith("bundled:") or Path(name).is_dir()]


def label(name: str) -> str:
    return Path(name.removeprefix("bundled:")).name


def tuples(name: str, count: int, *, negatives: int = 1, seed: int = 0) -> list[list[str]]:
    """Columns of text: `count` queries, their relevant documents, and `negatives` columns of BM25 negatives.

    No document occurs twice, so that every peer's batch has the same candidates.
    """
    dataset = Dataset.open(name, reading=Reading(lenient=True))
    qrels = dataset.qrels("train" if "train" in dataset.splits else "test")
    order = np.random.default_rng(seed).permutation(len(qrels.queries))
    known = qrels.to_dict()
    with tempfile.TemporaryDirectory() as folder:
        index = assemble.bm25_index(dataset, Path(folder) / "bm25", BM25())
        columns: list[list[str]] = [[] for _ in range(2 + negatives)]
        used: set[str] = set()
        for at in order:
            query = qrels.queries[int(at)]
            text = dataset.queries[int(dataset.queries.rows([query])[0])].text
            relevant = [doc for doc, grade in known[query].items() if grade > 0 and doc not in used]
            ranked = index.search([text], [query], k=100).docs
            hard = [doc for doc in ranked if doc not in known[query] and doc not in used][:negatives]
            if not relevant or len(hard) < negatives:
                continue
            docs = [relevant[0], *hard]
            used.update(docs)
            for column, value in zip(columns, [text, *(_text(dataset, doc) for doc in docs)]):
                column.append(value)
            if len(columns[0]) == count:
                break
    return columns


def _text(dataset: Dataset, doc: str) -> str:
    document = dataset.corpus[int(dataset.corpus.rows([doc])[0])]
    return f"{document.title} {document.text}".strip()
