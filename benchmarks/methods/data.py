"""The collections of the methods' pages: a training split with levels and a test split, in one layout each.

- scifact: as bundled; levels are `bundled:scifact-levels` (see levels.py).
- medquad: 4,000 training questions, whole topics drawn by chance. Levels: the question's own answer 3, other answers
  about the same topic 1, BM25's best about other topics 0. Tested on TREC LiveQA's graded judgements, over the judged
  documents and the first 50 of BM25 for each test question.
- cranfield: its 225 queries in two halves, odd numbers for training, even ones for the test. Levels: its own grades;
  BM25's best that nobody judged 0.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from rankwright import assemble
from rankwright.data import Dataset, Reading
from rankwright.search import BM25

Judgements = Mapping[str, Mapping[str, float]]
QUESTIONS, POOL = 4000, 50
RELATED, OTHER, UNJUDGED = 2, 1, 3  # documents of a list: MedQuAD's of level 1 and 0, Cranfield's of level 0


def medquad(source: Path, folder: Path) -> None:
    """Write `folder` (training, all documents) and `folder`-test (judged and pooled documents)."""
    data = Dataset.open(source, reading=Reading(lenient=True))
    judged, tested = data.qrels("train").to_dict(), data.qrels("test").to_dict()
    titles = {data.corpus[row].id: data.corpus[row].title.lower() for row in range(len(data.corpus))}
    about: dict[str, list[str]] = {}
    for doc, title in titles.items():
        about.setdefault(title, []).append(doc)
    asked: dict[str, list[str]] = {}
    for query, docs in judged.items():
        asked.setdefault(titles[next(iter(docs))], []).append(query)
    draw = np.random.default_rng(0)
    queries: list[str] = []
    for at in draw.permutation(len(asked)):
        queries += list(asked.values())[at] if len(queries) < QUESTIONS else []
    near = _bm25(data, [*queries, *tested], depth=POOL)
    levels: dict[str, dict[str, float]] = {}
    for query in queries:
        own = judged[query]
        topics = {titles[doc] for doc in own}
        same = [doc for title in topics for doc in about[title] if doc not in own]
        other = [doc for doc in near[query] if titles[doc] not in topics][:OTHER]
        levels[query] = dict.fromkeys(other, 0.0) | dict.fromkeys(same[:RELATED], 1.0) | dict.fromkeys(own, 3.0)
    _write(folder, data, queries, {"train": {q: judged[q] for q in queries}, "levels": levels}, docs=None)
    pool = {doc for query in tested for doc in [*tested[query], *near[query]]}
    _write(folder.with_name(f"{folder.name}-test"), data, tested, {"test": tested}, docs=pool)


def cranfield(source: Path, folder: Path) -> None:
    """Write `folder`; the two empty documents are left out."""
    data = Dataset.open(source, reading=Reading(lenient=True))
    judged = data.qrels("test").to_dict()
    train, test = ([q for q in judged if int(q) % 2 == odd] for odd in (1, 0))
    near = _bm25(data, train, depth=POOL)
    levels = {
        query: dict.fromkeys([doc for doc in near[query] if doc not in judged[query]][:UNJUDGED], 0)
        | dict(judged[query])
        for query in train
    }
    splits = {"train": {q: judged[q] for q in train}, "levels": levels, "test": {q: judged[q] for q in test}}
    docs = {data.corpus[row].id for row in range(len(data.corpus)) if data.corpus[row].text.strip()}
    _write(folder, data, judged, splits, docs=docs)


def pooled(source: str, folder: Path, *, depth: int) -> None:
    """Write a cut test collection: the test queries over their judged documents and the first `depth` of BM25."""
    data = Dataset.open(source, reading=Reading())
    judged = data.qrels("test").to_dict()
    near = _bm25(data, list(judged), depth=depth)
    docs = {doc for query in judged for doc in [*judged[query], *near[query]]}
    _write(folder, data, judged, {"test": judged}, docs=docs)


def _bm25(data: Dataset, queries: list[str], *, depth: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as scratch:
        index = assemble.bm25_index(data, Path(scratch) / "bm25", BM25())
        return assemble.bm25_run(data, index, queries, depth=depth).to_dict()


def _write(
    folder: Path, data: Dataset, queries: Iterable[str], splits: Mapping[str, Judgements], *, docs: set[str] | None
) -> None:
    """A BEIR folder of these queries and documents (None: all); pairs with other documents are left out."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    kept = (data.corpus[row] for row in range(len(data.corpus)))
    texts = [{"_id": d.id, "title": d.title, "text": d.text} for d in kept if docs is None or d.id in docs]
    _lines(folder / "corpus.jsonl.gz", texts)
    rows = data.queries.rows(list(queries))
    _lines(folder / "queries.jsonl.gz", [{"_id": (q := data.queries[int(row)]).id, "text": q.text} for row in rows])
    there = {text["_id"] for text in texts}
    for split, judgements in splits.items():
        pairs = [f"{q}\t{d}\t{g:g}\n" for q, some in judgements.items() for d, g in some.items() if d in there]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(pairs))


def _lines(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), 6, mtime=0))
