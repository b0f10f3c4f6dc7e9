"""Encoding a corpus against sentence-transformers: documents a second on all cores and on one, same vectors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankwright import assemble
from rankwright.data import Dataset, Reading
from rankwright.models import Dense
from rankwright.models.hub import resolve
from rankwright.search import encode

from ._texts import BACKBONE, collections, label
from .common import DATA, interleave, publish

OURS, PEER = "rankwright", "sentence-transformers (batch 32)"
MOST, SOME = 6000, 1000  # documents of the first collection and of the others
EXTRA = "medquad"  # answers of very uneven length, where it stands beside the repository


def main() -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    cells, notes = [], {}
    names = [*collections(), *([str(DATA / EXTRA)] if (DATA / EXTRA).is_dir() else [])]
    for name in names:
        ranker = Dense(BACKBONE).load()
        model = SentenceTransformer(str(resolve(BACKBONE)), device="cpu")
        dataset = Dataset.open(name, reading=Reading(lenient=True))
        first = np.arange(min(len(dataset.corpus), MOST if name == names[0] else SOME))
        for threads in sorted({1, os.cpu_count() or 1}, reverse=True):
            torch.set_num_threads(threads)
            rows = first if threads > 1 else first[::8]
            texts = [ranker.render(dataset.corpus[int(row)]) for row in rows]
            task = f"{label(name)}: {len(rows):,} documents, {threads} thread(s)"
            kept: dict[str, np.ndarray] = {}
            contestants = {PEER: _peer(model, texts, kept), OURS: _ours(ranker, dataset, rows, kept)}
            _warm_up(model, ranker, texts)
            cells.append(interleave(task, contestants, rounds=1 if len(rows) > SOME else 3, warm_up=False))
            a, b = kept[PEER], kept[OURS]
            cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
            notes[f"{task}: least cosine"] = float(cosine.min())
    publish("encode", cells, ours=OURS, packages=["transformers", "sentence-transformers"], notes=notes)


def _warm_up(model: Any, ranker: Any, texts: list[str]) -> None:
    model.encode(texts[:32], show_progress_bar=False)
    ranker.represent(ranker.tokenize(texts[:8], "doc"), "doc")


def _peer(model: Any, texts: list[str], kept: dict[str, np.ndarray]) -> Callable[[], None]:
    def run() -> None:
        kept[PEER] = model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)

    return run


def _ours(ranker: Any, dataset: Dataset, rows: np.ndarray, kept: dict[str, np.ndarray]) -> Callable[[], None]:
    """Reads the token store, as every encoding after the first does; tokenising it took a second or two, once."""
    store = assemble.tokens(ranker, dataset.corpus, "doc", cache=dataset.cache)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = encode(
                ranker, assemble.Rows(store, rows), Path(folder) / "vectors", ids=[str(row) for row in rows],
                tokens_per_batch=1024,
            )  # fmt: skip
            kept[OURS] = np.concatenate([block for _, block in made.blocks(4096)])

    return run
