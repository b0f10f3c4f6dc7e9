"""A contrastive step against sentence-transformers: same texts, same batch, same gradient, one process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch

from rankwright.losses import InfoNCE
from rankwright.models import Dense, Ranker
from rankwright.models.hub import resolve
from rankwright.training import Memory, Objective, Step, Term
from rankwright.types import Batch, Reps, Side, Texts

from ._texts import BACKBONE, collections, label, tuples
from .common import Cell, interleave, publish

PARTS = ("loss", "collation", "step")
OURS, CACHED = "rankwright", "rankwright, everything recomputed"
PEER, PEER_CACHED = "ST MultipleNegativesRankingLoss", "ST CachedMultipleNegativesRankingLoss(32)"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="measure it anew, keep the others as they were")
    only = parser.parse_args([a for a in sys.argv[1:] if a not in ("training", "short")]).only
    torch.set_num_threads(os.cpu_count() or 1)
    cells: list[Cell] = []
    notes: dict[str, Any] = {"threads": torch.get_num_threads(), "backbone": BACKBONE}
    parts = {"loss": _losses(), "collation": _collation(), "step": _steps(notes)}
    for cell in parts[only] if only else chain.from_iterable(parts.values()):
        cells.append(cell)  # published one by one: an hour's work is not lost to its last minute
        packages = ["transformers", "sentence-transformers"]
        publish("training", cells, ours=OURS, packages=packages, notes=notes, keep=bool(only))


def _losses() -> Iterator[Cell]:
    return (_loss_stage(size) for size in (1024, 4096))


def _steps(notes: dict[str, Any]) -> Iterator[Cell]:
    for name in collections():
        columns = tuples(name, 32)
        for length in (256, 512):
            yield _step(columns, f"step, {label(name)}, 32 queries, length {length}", length, notes)
    columns = tuples(collections()[-1], 32)
    task = f"step, {label(collections()[-1])}, 32 queries, length 256, the model's own dropout"
    yield _step(columns, task, 256, notes, dropout=None)


def _step(
    columns: list[list[str]], task: str, length: int, notes: dict[str, Any], *, dropout: float | None = 0.0
) -> Cell:
    ranker = Dense(BACKBONE, dropout=dropout, query_length=length, doc_length=length).load().train()
    model = _peer(length, dropout)
    batch = make_batch(ranker, columns)
    contestants = {
        PEER: _theirs(model, columns, cached=False),
        PEER_CACHED: _theirs(model, columns, cached=True),
        CACHED: _ours(ranker, batch, Memory(tokens=4096, graph_tokens=0)),
        OURS: _ours(ranker, batch, Memory(tokens=4096, graph_tokens=1 << 20)),
    }
    if dropout == 0.0:
        reference = contestants[PEER]()
        for name in (PEER_CACHED, CACHED, OURS):
            notes[f"{task}: gradient of {name}, relative L2 from {PEER}"] = _apart(contestants[name](), reference)
    else:
        notes[f"{task}: dropout of {OURS}"] = ranker.training_note
    tokens = sum(len(t.values) for t in (batch.queries, batch.docs))
    padded = sum(length_of(texts) * len(texts) for texts in _columns_of(ranker, columns))
    notes[f"{task}: real tokens, share of padding in the peers' columns"] = [tokens, round(1 - tokens / padded, 3)]
    return interleave(task, contestants, rounds=2)


def _columns_of(ranker: Ranker, columns: list[list[str]]) -> list[Texts]:
    return [ranker.tokenize(column, "query" if i == 0 else "doc") for i, column in enumerate(columns)]


def length_of(texts: Texts) -> int:
    return int(texts.lengths.max())


def make_batch(ranker: Ranker, columns: list[list[str]]) -> Batch:
    """Query i's list is its row of the document columns; the first is relevant."""
    n, width = len(columns[0]), len(columns) - 1
    docs = [text for column in columns[1:] for text in column]
    lists = torch.arange(n * width).view(width, n).T.contiguous()
    targets = torch.zeros(n, width)
    targets[:, 0] = 1
    rows = torch.arange(n)
    return Batch(
        ranker.tokenize(columns[0], "query"), ranker.tokenize(docs, "doc"), lists, targets,
        torch.ones(n, width, dtype=torch.bool), rows, rows, torch.ones(n),
        tuple(f"q{i}" for i in range(n)), tuple(f"d{i}" for i in range(len(docs))),
    )  # fmt: skip


def _ours(ranker: Ranker, batch: Batch, memory: Memory) -> Callable[[], dict[str, torch.Tensor]]:
    step = Step(ranker, Objective([Term(InfoNCE(0.05), "batch")]), memory=memory)

    def run() -> dict[str, torch.Tensor]:
        ranker.zero_grad(set_to_none=True)
        step(batch, step=0)
        named = ranker.named_parameters()
        return {n.split("backbone.")[1]: p.grad for n, p in named if p.grad is not None}

    return run


def _peer(length: int, dropout: float | None) -> Any:
    from sentence_transformers import SentenceTransformer

    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if dropout == 0.0 else {}
    model = SentenceTransformer(str(resolve(BACKBONE)), device="cpu", config_kwargs=off)
    model.max_seq_length = length
    return model.train()


def _theirs(model: Any, columns: list[list[str]], *, cached: bool) -> Callable[[], dict[str, torch.Tensor]]:
    from sentence_transformers.sentence_transformer import losses

    plain, caching = losses.MultipleNegativesRankingLoss, losses.CachedMultipleNegativesRankingLoss
    loss = caching(model, mini_batch_size=32) if cached else plain(model)
    labels = torch.zeros(len(columns[0]))

    def run() -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        features = [model.preprocess(column) for column in columns]
        loss(features, labels).backward()
        named = model.named_parameters()
        return {n.split("model.", 1)[1]: p.grad for n, p in named if p.grad is not None}

    return run


def _apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    names = sorted(set(found) & set(expected))
    assert len(names) > 50, (sorted(found)[:3], sorted(expected)[:3])
    difference = sum(float((found[n] - expected[n]).square().sum()) for n in names)
    return (difference / sum(float(expected[n].square().sum()) for n in names)) ** 0.5


# --- the loss alone -----------------------------------------------------------------------------


def _loss_stage(size: int, dim: int = 384) -> Cell:
    """Unit vectors of `size` queries and 2 x `size` documents: loss, and gradients of all vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    draw = torch.Generator().manual_seed(0)
    q, d = (torch.nn.functional.normalize(torch.randn(n, dim, generator=draw), dim=-1) for n in (size, 2 * size))
    peer = losses.CachedMultipleNegativesRankingLoss(SentenceTransformer(modules=[torch.nn.Identity()]))
    objective = Objective([Term(InfoNCE(0.05), "batch")])
    step = Step(_Dot(), objective)
    batch = loss_batch(size)

    def theirs() -> None:
        parts = [part.clone().requires_grad_() for part in (q, d[:size], d[size:])]
        peer.calculate_loss([list(part.split(32)) for part in parts], with_backward=True)

    def ours() -> None:
        leaves = {
            s: Reps(v.clone()[:, None].requires_grad_(), torch.ones(len(v), 1) > 0)
            for s, v in (("query", q), ("doc", d))
        }
        step._differentiate(batch, (None,), leaves, 1.0)  # type: ignore[arg-type]

    return interleave(f"loss stage, {size} queries, {2 * size} documents", {PEER_CACHED: theirs, OURS: ours}, rounds=3)


class _Dot(torch.nn.Module):
    """A ranker whose texts are encoded already."""

    packed, normalised = True, True

    def represent(self, texts: Texts, side: Side) -> Reps:
        raise NotImplementedError

    def compare(self, queries: Reps, docs: Reps) -> torch.Tensor:
        return queries.values[:, 0] @ docs.values[:, 0].T


def loss_batch(size: int) -> Batch:
    rows = torch.arange(size)
    nothing = Texts(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return Batch(
        nothing, nothing, torch.stack([rows, rows + size], 1), torch.tensor([[1.0, 0.0]]).repeat(size, 1),
        torch.ones(size, 2, dtype=torch.bool), rows, rows, torch.ones(size),
        (), tuple(f"d{i}" for i in range(2 * size)),
    )  # fmt: skip


# --- collation ----------------------------------------------------------------------------------


def _collation() -> Iterator[Cell]:
    """128 queries with 4 documents each: from text with the peers, from the token store here."""
    columns = tuples("bundled:scifact", 128, negatives=3)
    model = _peer(256, 0.0)
    ranker = Dense(BACKBONE).load()
    stored = [ranker.tokenize(column, "doc") for column in columns]
    rows = torch.arange(len(columns[0]))

    def theirs() -> None:
        for column in columns:
            model.preprocess(column)

    def ours() -> None:
        for column in stored:
            column.take(rows)

    yield interleave("collation, 128 queries x 4 documents", {"ST preprocess": theirs, OURS: ours}, rounds=5)
