"""BM25 on SciFact against bm25s: indexing the same tokens, and 1000 queries from their tokens and from their text."""

from __future__ import annotations

import gzip
import json
import time
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rankwright import progress
from rankwright.search import BM25
from rankwright.search.postings import Postings

from .common import DATA, interleave, publish

DEPTH = 100


def main() -> None:
    import bm25s
    import Stemmer

    progress.quiet()
    docs, queries = _read("corpus"), [query["text"] for query in _read("queries")][:1000]
    texts, spec = [f"{doc['title']} {doc['text']}" for doc in docs], BM25()
    words, vocabulary = spec._splitter(), {}
    tokens = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]
    asked = [[vocabulary[word] for word in words(query) if word in vocabulary] for query in queries]

    def theirs(backend: str):
        made = bm25s.BM25(k1=spec.k1, b=spec.b, method="lucene", backend=backend)
        made.index((tokens, vocabulary), create_empty_token=False, show_progress=False)
        return made

    def ours() -> Postings:
        flat = np.fromiter(chain.from_iterable(tokens), np.int32)
        return Postings.of(flat, [len(row) for row in tokens], k1=spec.k1, b=spec.b)

    stemmer = Stemmer.Stemmer("english")  # it remembers stems, as ours does

    def split():
        return bm25s.tokenize(queries, stopwords="en", stemmer=stemmer, show_progress=False)

    cells, notes = [interleave("index", {"rankwright": ours, "bm25s": lambda: theirs("numpy")})], {}
    with TemporaryDirectory() as folder:
        index = spec.build(Path(folder) / "bm25", [doc["_id"] for doc in docs], texts, key="")
        names = [f"q{i}" for i in range(len(queries))]
        peers, cells_of = {"bm25s numpy": theirs("numpy")}, {"tokens": {}, "text": {}}
        try:
            import numba  # noqa: F401

            peers["bm25s numba"] = theirs("numba")
            began = time.perf_counter()
            peers["bm25s numba"].retrieve(asked[:1], k=DEPTH, show_progress=False, n_threads=1)
            notes["first query of bm25s numba, seconds"] = time.perf_counter() - began
        except ImportError:
            notes["numba"] = "not installed"
        known = index.terms(queries)
        cells_of["tokens"]["rankwright"] = lambda: index.hits_of_terms(known, k=DEPTH, bar=bar)
        cells_of["text"]["rankwright"] = lambda: index.search(queries, names, k=DEPTH)
        for name, peer in peers.items():
            cells_of["tokens"][name] = lambda p=peer: p.retrieve(asked, k=DEPTH, show_progress=False, n_threads=1)
            cells_of["text"][name] = lambda p=peer: p.retrieve(split(), k=DEPTH, show_progress=False, n_threads=1)
        with progress.progress("search") as bar:
            cells += [interleave(f"{len(queries)} queries from {what}", found) for what, found in cells_of.items()]
    publish("bm25", cells, ours="rankwright", packages=["bm25s", "numba", "scipy"], notes=notes)


def _read(name: str) -> list[dict]:
    with gzip.open(DATA / "scifact" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
