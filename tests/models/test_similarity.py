"""MaxSim against a loop over tokens in NumPy: scores, gradients, masks, pairs, blocks of every size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankwright.models import similarity
from rankwright.types import Reps

Q, M, TQ, TD, DIM = 5, 7, 4, 6, 3


def reps(rng: np.random.Generator, rows: int, tokens: int, *, gradient: bool = False) -> Reps:
    mask = torch.tensor(rng.random((rows, tokens)) < 0.7)
    mask[:, 1] = True
    mask[0, 0] = False  # not only trailing tokens are masked
    values = torch.tensor(rng.normal(size=(rows, tokens, DIM)))
    return Reps(values.requires_grad_(gradient), mask)


def reference(queries: Reps, docs: Reps, upstream: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, and the gradients of ``(scores * upstream).sum()``, token by token."""
    q, d = queries.values.detach().numpy(), docs.values.detach().numpy()
    scores, dq, dd = np.zeros((len(q), len(d))), np.zeros_like(q), np.zeros_like(d)
    for a in range(len(q)):
        for b in range(len(d)):
            shown = np.flatnonzero(docs.mask[b].numpy())
            for i in np.flatnonzero(queries.mask[a].numpy()):
                products = [float((q[a, i] * d[b, j]).sum()) for j in shown]
                j = shown[int(np.argmax(products))]
                scores[a, b] += max(products)
                dq[a, i] += upstream[a, b] * d[b, j]
                dd[b, j] += upstream[a, b] * q[a, i]
    return scores, dq, dd


@pytest.mark.parametrize("cells", [1, TQ * TD * 3, 1 << 21])
def test_all_against_all(cells):
    rng = np.random.default_rng(0)
    queries, docs = reps(rng, Q, TQ, gradient=True), reps(rng, M, TD, gradient=True)
    upstream = rng.normal(size=(Q, M))
    scores, dq, dd = reference(queries, docs, upstream)
    made = similarity.maxsim(queries, docs, cells=cells)
    (made * torch.tensor(upstream)).sum().backward()
    assert np.abs(made.detach().numpy() - scores).max() <= 1e-12
    assert np.abs(queries.values.grad.numpy() - dq).max() <= 1e-12
    assert np.abs(docs.values.grad.numpy() - dd).max() <= 1e-12


@pytest.mark.parametrize("cells", [1, TQ * TD * 4, 1 << 21])
def test_pairs(cells):
    rng = np.random.default_rng(1)
    queries, docs = reps(rng, Q, TQ, gradient=True), reps(rng, M, TD, gradient=True)
    pairs = torch.tensor(rng.integers(0, M, size=(Q, 3)))  # a document may serve several queries
    chosen = rng.normal(size=(Q, 3))
    upstream = np.zeros((Q, M))
    np.add.at(upstream, (np.arange(Q)[:, None], pairs.numpy()), chosen)
    scores, dq, dd = reference(queries, docs, upstream)
    made = similarity.maxsim(queries, docs, pairs=pairs, cells=cells)
    (made * torch.tensor(chosen)).sum().backward()
    assert np.abs(made.detach().numpy() - np.take_along_axis(scores, pairs.numpy(), 1)).max() <= 1e-12
    assert np.abs(queries.values.grad.numpy() - dq).max() <= 1e-12
    assert np.abs(docs.values.grad.numpy() - dd).max() <= 1e-12


def test_what_is_masked_has_no_say_even_when_it_is_huge():
    rng = np.random.default_rng(2)
    queries, docs = reps(rng, Q, TQ), reps(rng, M, TD)
    before = similarity.maxsim(queries, docs)
    queries.values[~queries.mask] = 1e30
    docs.values[~docs.mask] = -1e30
    assert torch.equal(similarity.maxsim(queries, docs), before)


def test_negative_products_are_not_lifted_by_padding():
    queries = Reps(torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))
    docs = Reps(torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]]), torch.tensor([[True, False]]))
    assert similarity.maxsim(queries, docs).item() == -1.0


def test_blocks_do_not_hold_all_products(monkeypatch):
    """The largest tensor that a block makes stays within the budget."""
    rng, seen = np.random.default_rng(3), []
    queries, docs = reps(rng, 40, TQ), reps(rng, 50, TD)
    plain = similarity._all
    monkeypatch.setattr(similarity, "_all", lambda q, *rest: seen.append(q[0, :, 0].numel() * len(q) * rest[1][..., 0].numel()) or plain(q, *rest))  # fmt: skip  # noqa: E501
    similarity.maxsim(queries, docs, cells=4000)
    assert len(seen) > 5
    assert max(seen) <= 4000


def test_none_and_half_precision():
    rng = np.random.default_rng(4)
    queries, docs = reps(rng, Q, TQ), reps(rng, M, TD)
    nothing = Reps(torch.zeros(0, 1, DIM, dtype=torch.float64), torch.ones(0, 1, dtype=torch.bool))
    assert similarity.maxsim(nothing, docs).shape == (0, M)
    assert similarity.maxsim(queries, nothing).shape == (Q, 0)
    half = [Reps(side.values.bfloat16(), side.mask) for side in (queries, docs)]
    assert similarity.maxsim(*half).dtype == torch.float32
