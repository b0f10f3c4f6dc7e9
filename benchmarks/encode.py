"""Encoding a corpus against sentence-transformers: documents a second on all cores and on one, same vectors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from rankwright import assemble
from rankwright.data import Dataset, Reading
from rankwright.models import Dense
from rankwright.models.hub import resolve
from rankwright.search import encode
from rankwright.types import Precision

from ._texts import BACKBONE, collections, label
from .common import Cell, interleave, publish

OURS, PEER = "rankwright", "sentence-transformers (batch 32)"
MOST, SOME = 6000, 1000  # documents of the collection in EXTRA and of the others
EXTRA = "medquad"  # answers of very uneven length


def main() -> None:
    import torch

    from rankwright.models.precision import chosen

    cells, notes = [], {}
    all_cores = os.cpu_count() or 1
    native: Precision = chosen("auto", "cpu")
    arithmetics: list[Precision] = ["float32"] if native == "float32" else ["float32", native]
    for name in collections():
        dataset = Dataset.open(name, reading=Reading(lenient=True))
        rows = np.arange(min(len(dataset.corpus), MOST if label(name) == EXTRA else SOME))
        for threads, arithmetic in product(sorted({1, all_cores}), arithmetics):
            torch.set_num_threads(threads)
            some = rows if threads > 1 and arithmetic == "float32" else rows[:: max(1, len(rows) // 500)]
            task = f"{label(name)}: {len(some):,} documents, {threads} thread(s), {arithmetic}"
            cell, notes[f"{task}: least cosine to the peer's"] = _cell(task, dataset, some, arithmetic)
            cells.append(cell)
    publish("encode", cells, ours=OURS, packages=["transformers", "sentence-transformers"], notes=notes)


def _cell(task: str, dataset: Dataset, rows: np.ndarray, precision: Precision) -> tuple[Cell, float]:
    import torch
    from sentence_transformers import SentenceTransformer

    ranker, model = Dense(BACKBONE).load(), SentenceTransformer(str(resolve(BACKBONE)), device="cpu")
    if precision == "bf16":
        model = model.to(torch.bfloat16)  # the way it documents
    texts = [ranker.render(dataset.corpus[int(row)]) for row in rows]
    kept: dict[str, np.ndarray] = {}
    contestants = {PEER: _peer(model, texts, kept), OURS: _ours(ranker, dataset, rows, kept, precision)}
    _warm_up(model, ranker, texts)
    cell = interleave(task, contestants, rounds=1 if len(rows) > SOME else 3, warm_up=False)
    a, b = kept[PEER], kept[OURS]
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cell, float(cosine.min())


def _warm_up(model: Any, ranker: Any, texts: list[str]) -> None:
    model.encode(texts[:32], show_progress_bar=False)
    ranker.represent(ranker.tokenize(texts[:8], "doc"), "doc")


def _peer(model: Any, texts: list[str], kept: dict[str, np.ndarray]) -> Callable[[], None]:
    def run() -> None:
        made = model.encode(
            texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True
        )
        kept[PEER] = made.float().numpy()

    return run


def _ours(
    ranker: Any, dataset: Dataset, rows: np.ndarray, kept: dict[str, np.ndarray], precision: Precision
) -> Callable[[], None]:
    """Reads the token store, as every encoding after the first does; tokenising it took a second or two, once."""
    store = assemble.tokens(ranker, dataset.corpus, "doc", cache=dataset.cache)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = encode(
                ranker, assemble.Rows(store, rows), Path(folder) / "vectors", ids=[str(row) for row in rows],
                tokens_per_batch=1024, precision=precision,
            )  # fmt: skip
            kept[OURS] = np.concatenate([block for _, block in made.blocks(4096)])

    return run
