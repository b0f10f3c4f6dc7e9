"""Small float64 rankers and batches that the training tests share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rankwright.types import Batch, Reps, Texts

VOCABULARY, DIM = 30, 6


def _keyed_mask(keys: torch.Tensor, longest: int, dim: int, p: float) -> torch.Tensor:
    masks = []
    for key in keys.tolist():
        generator = torch.Generator().manual_seed(key)
        masks.append(torch.rand(64, dim, generator=generator, dtype=torch.float64)[:longest] >= p)
    return torch.stack(masks) / (1 - p)


class Toy(nn.Module):
    """Embeds, drops out by key, mixes tokens; one vector a text, or one a token (`late`)."""

    pairing = None  # texts are represented apart

    packed = False
    normalised: bool | None = False

    def __init__(self, *, late: bool, seed: int = 0, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCABULARY, DIM).double()
        self.mix = nn.Linear(DIM, DIM).double()
        self.norm = nn.LayerNorm(DIM).double()
        self.late, self.dropout = late, dropout
        self.fail_on: list[int] = []
        self.calls = 0

    def represent(self, texts: Texts, side: str) -> Reps:
        self.calls += 1
        if self.calls in self.fail_on:
            raise torch.OutOfMemoryError("planted")
        lengths = texts.lengths.tolist()
        if not lengths:
            return Reps(torch.zeros(0, 1, DIM, dtype=self.norm.weight.dtype), torch.zeros(0, 1, dtype=torch.bool))
        longest = max(lengths)
        ids = torch.zeros(len(lengths), longest, dtype=torch.int64)
        mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
        for row, (begin, length) in enumerate(zip(texts.offsets.tolist(), lengths)):
            ids[row, :length] = texts.values[begin : begin + length]
            mask[row, :length] = True
        hidden = self.embed(ids)
        if self.training and texts.keys is not None:
            hidden = hidden * _keyed_mask(texts.keys, longest, DIM, self.dropout)
        hidden = torch.tanh(self.mix(hidden)) + hidden
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        if not self.late:
            return Reps(self.norm(mean), torch.ones(len(lengths), 1, dtype=torch.bool))
        return Reps(self.norm(hidden + mean) * weight, mask)

    def compare(self, queries: Reps, docs: Reps) -> torch.Tensor:
        if not self.late:
            return queries.values[:, 0] @ docs.values[:, 0].T
        scores = torch.einsum("qid,mjd->qmij", queries.values, docs.values)
        scores = scores.masked_fill(~docs.mask[None, :, None, :], -1e9).amax(-1)
        return (scores * queries.mask[:, None, :]).sum(-1)


class CrossToy(Toy):
    """Scores pairs: its documents are texts of a query and a document, its queries are nothing."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(late=False, seed=seed)
        self.head = nn.Linear(DIM, 1).double()

    def represent(self, texts: Texts, side: str) -> Reps:
        if side == "query":
            zeros = torch.zeros(len(texts), 1, 1, dtype=self.norm.weight.dtype)
            return Reps(zeros, torch.ones(len(texts), 1, dtype=torch.bool))
        reps = super().represent(texts, side)
        return Reps(self.head(reps.values), reps.mask)

    def compare(self, queries: Reps, docs: Reps) -> torch.Tensor:
        return docs.values[:, 0, 0].expand(len(queries.values), -1)


def texts(rng, n: int, longest: int) -> Texts:
    lengths = torch.tensor(rng.integers(1, longest + 1, size=n))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Texts(torch.tensor(rng.integers(0, VOCABULARY, size=int(offsets[-1]))), offsets)


def make_batch(rng, *, queries: int = 7, docs: int = 15, width: int = 4) -> Batch:
    """Lists of uneven length over shared documents; the source knows more pairs than the lists hold."""
    lists = torch.tensor(np.array([rng.choice(docs, size=width, replace=False) for _ in range(queries)]))
    targets = torch.tensor(rng.integers(0, 3, size=(queries, width))).float()
    targets[:, 0] = torch.tensor(rng.integers(1, 4, size=queries)).float()
    mask = torch.ones(queries, width, dtype=torch.bool)
    mask[1, 2:] = False
    mask[3, 1:] = False
    known: dict[tuple[int, int], float] = {}
    for q in range(queries):
        for d in rng.choice(docs, size=3, replace=False):
            known[q, int(d)] = float(rng.integers(-1, 3))
        for d, t, m in zip(lists[q].tolist(), targets[q].tolist(), mask[q].tolist()):
            if m:
                known[q, d] = t
    pairs = sorted(known)
    return Batch(
        texts(rng, queries, 5), texts(rng, docs, 12), lists * mask, targets * mask, mask,
        torch.tensor([q for q, _ in pairs]), torch.tensor([d for _, d in pairs]),
        torch.tensor([known[p] for p in pairs]),
        tuple(f"q{i}" for i in range(queries)), tuple(f"d{i}" for i in range(docs)),
        drawn=tuple(f"d{i}" for i in range(docs - 1, 0, -3)),
    )  # fmt: skip


def make_pairs(rng, *, queries: int = 7, width: int = 5) -> Batch:
    """Uneven lists of pairs; queries share documents, which are read anew with each."""
    mask = torch.ones(queries, width, dtype=torch.bool)
    mask[1, 3:] = False
    mask[4, 2:] = False
    lists = torch.zeros(queries, width, dtype=torch.int64)
    lists[mask] = torch.arange(int(mask.sum()))
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        Texts(nothing, torch.zeros(queries + 1, dtype=torch.int64)), texts(rng, int(mask.sum()), 12), lists,
        torch.tensor(rng.integers(0, 4, size=(queries, width))).float() * mask, mask,
        nothing, nothing, torch.zeros(0), tuple(f"q{i}" for i in range(queries)),
        tuple(f"d{j}" for i in range(queries) for j in range(width) if mask[i, j]),
        tuple(f"q{i}" for i in range(queries) for j in range(width) if mask[i, j]),
    )  # fmt: skip


def share(batch: Batch, rank: int, world: int) -> Batch:
    """What rank `rank` of `world` holds of a global batch: some queries (unevenly) and only its own documents."""
    cuts = [0, *(len(batch.queries) * (r + 1) // world + (r == 0) * (world > 1) for r in range(world))]
    cuts[-1] = len(batch.queries)
    owned = []
    for r in range(world):
        rows = range(cuts[r], cuts[r + 1])
        extra = {batch.doc_ids.index(name) for name in batch.drawn[r::world]}
        listed = {d for q in rows for d, m in zip(batch.lists[q].tolist(), batch.mask[q].tolist()) if m}
        owned.append(sorted(listed | extra))
    columns = [(r, d) for r in range(world) for d in owned[r]]
    rows = torch.arange(cuts[rank], cuts[rank + 1])
    local = {d: i for i, d in enumerate(owned[rank])}
    lists = torch.tensor(
        [[local[d] if m else 0 for d, m in zip(batch.lists[q].tolist(), batch.mask[q].tolist())] for q in rows.tolist()]
    )
    known = dict(zip(zip(batch.known_queries.tolist(), batch.known_docs.tolist()), batch.known_targets.tolist()))
    triples = [
        (q - cuts[rank], c, known[q, d]) for q in rows.tolist() for c, (_, d) in enumerate(columns) if (q, d) in known
    ]
    return Batch(
        batch.queries.take(rows), batch.docs.take(torch.tensor(owned[rank])), lists,
        batch.targets[rows], batch.mask[rows],
        torch.tensor([t[0] for t in triples], dtype=torch.int64),
        torch.tensor([t[1] for t in triples], dtype=torch.int64),
        torch.tensor([t[2] for t in triples]),
        tuple(batch.query_ids[q] for q in rows.tolist()), tuple(batch.doc_ids[d] for _, d in columns),
        None if batch.pair_queries is None else tuple(batch.pair_queries[d] for _, d in columns), batch.drawn,
    )  # fmt: skip


class Supply:
    """Batch k as a pure function of k."""

    def steps_per_epoch(self, epoch: int) -> int:
        return 10

    def iterate(self, start: int, stop: int):
        for k in range(start, stop):
            yield make_batch(np.random.default_rng(k), queries=4, docs=9)
