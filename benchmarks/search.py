"""Exact search of 100,000 x 384 unit vectors, or --rows N of them, against faiss and sentence-transformers."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

import numpy as np
import torch

from rankwright import progress
from rankwright.search import Exact, Vectors

from .common import Cell, interleave, publish

ROWS, DIM, DEPTH = 100_000, 384, 100


def main() -> None:
    import faiss

    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_args([a for a in sys.argv[1:] if a not in ("search", "short")]).rows
    progress.quiet()
    cells = []
    rng = np.random.default_rng(0)
    docs, queries = _unit(rng, rows), _unit(rng, 1000)
    vectors = Vectors([f"d{i}" for i in range(rows)], [docs])
    _ = vectors.max_norm, vectors.ids.ranks  # kept with vectors on disk
    flat = faiss.IndexFlatIP(DIM)
    flat.add(docs)
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        cells += [
            _round(f"{count} queries, {threads} threads", queries[:count], vectors, flat) for count in (1000, 100)
        ]
    name = "search" if rows == ROWS else f"search-{rows}"
    publish(name, cells, ours="rankwright", packages=["faiss-cpu", "sentence-transformers"], notes={"rows": rows})


def _unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    made = rng.standard_normal((rows, DIM), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _round(task: str, queries: np.ndarray, vectors: Vectors, flat) -> Cell:
    names = [f"q{i}" for i in range(len(queries))]
    contestants = {
        "rankwright": lambda: Exact(vectors).search(queries, names, k=DEPTH),
        "faiss as shipped": lambda: flat.search(queries, DEPTH),
        "faiss, BLAS forced": partial(_forced, flat, queries),
    }
    try:
        from sentence_transformers.util import dot_score, semantic_search

        asked, corpus = torch.from_numpy(queries), torch.from_numpy(vectors.take(np.arange(len(vectors))))
        contestants["sentence-transformers"] = lambda: semantic_search(
            asked, corpus, top_k=DEPTH, score_function=dot_score
        )
    except ImportError:
        pass
    return interleave(task, contestants, rounds=3)


def _forced(flat, queries: np.ndarray) -> None:
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    flat.search(queries, DEPTH)
    faiss.cvar.distance_compute_blas_threshold = before
