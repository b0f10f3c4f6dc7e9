"""BM25 on SciFact against bm25s: indexing the same tokens, and 1000 queries."""

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

    cells, notes = [interleave("index", {"rankwright": ours, "bm25s": lambda: theirs("numpy")})], {}
    with TemporaryDirectory() as folder:
        index = spec.build(Path(folder) / "bm25", [doc["_id"] for doc in docs], texts, key="")
        names = [f"q{i}" for i in range(len(queries))]
        plain = theirs("numpy")
        found = {
            "rankwright": lambda: index.search(queries, names, k=DEPTH),  # splits and stems the queries too
            "bm25s numpy": lambda: plain.retrieve(asked, k=DEPTH, show_progress=False),
        }
        try:
            import numba  # noqa: F401

            fast = theirs("numba")
            began = time.perf_counter()
            fast.retrieve(asked[:1], k=DEPTH, show_progress=False, n_threads=1)
            notes["first query of bm25s numba, seconds"] = time.perf_counter() - began
            found["bm25s numba"] = lambda: fast.retrieve(asked, k=DEPTH, show_progress=False, n_threads=1)
        except ImportError:
            notes["numba"] = "not installed"
        cells.append(interleave(f"{len(queries)} queries", found))
    publish("bm25", cells, ours="rankwright", packages=["bm25s", "numba", "scipy"], notes=notes)


def _read(name: str) -> list[dict]:
    with gzip.open(DATA / "scifact" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
