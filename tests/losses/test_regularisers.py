"""Regularisers against NumPy float64 formulas, central differences and sentence-transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankwright.errors import RecipeError
from rankwright.losses import GOR, L1, L2, Flops, Regulariser
from rankwright.types import Reps


def l1(x, spec):
    return np.mean([np.sum(np.abs(row)) for row in x])


def l2(x, spec):
    return np.mean([np.sum(row * row) for row in x])


def flops(x, spec):
    return sum(np.mean(np.abs(x[:, j])) ** 2 for j in range(x.shape[1]))


def gor(x, spec):
    unit = [row / np.linalg.norm(row) for row in x]
    cosines = [a @ b for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
    if not cosines:
        return 0.0
    second = max(0.0, np.mean(np.square(cosines)) - 1 / x.shape[1])
    return spec.mean_weight * np.mean(cosines) ** 2 + spec.second_moment_weight * second


ROWS = [
    (L1(), l1), (L2(0.5, 2.0), l2), (Flops(), flops), (Flops(0.0, 0.3), flops), (GOR(), gor),
    (GOR(0.2, 0.7, mean_weight=3.0, second_moment_weight=0.0), gor), (GOR(second_moment_weight=2.5), gor),
]  # fmt: skip


def reps(rng, rows: int, tokens: int, dim: int = 5) -> Reps:
    mask = torch.tensor(rng.random((rows, tokens)) < 0.7)
    mask[:, 0] = True
    values = torch.tensor(rng.normal(size=(rows, tokens, dim)) + 0.2)
    return Reps(values.masked_fill(~mask[..., None], float("nan")), mask)


@pytest.mark.parametrize("tokens", [1, 3], ids=["one vector", "late"])
@pytest.mark.parametrize(("regulariser", "formula"), ROWS, ids=[repr(row[0]) for row in ROWS])
def test_value_and_gradient(regulariser: Regulariser, formula, tokens: int):
    rng = np.random.default_rng(0)
    sides = reps(rng, 6, tokens), reps(rng, 9, tokens)
    expected = sum(
        weight * formula(side.values[side.mask].numpy(), regulariser)
        for weight, side in zip((regulariser.query_weight, regulariser.doc_weight), sides)
    )
    leaves = [side.values.clone().requires_grad_() for side in sides]
    value = regulariser(*(Reps(leaf, side.mask) for leaf, side in zip(leaves, sides)))
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    value.backward()
    at, step = (2, 0, 3), 1e-6
    for which, leaf in enumerate(leaves):
        if leaf.grad is None:
            assert (regulariser.query_weight, regulariser.doc_weight)[which] == 0
            continue
        assert torch.isfinite(leaf.grad).all()
        assert not leaf.grad[~sides[which].mask].any()
        ends = []
        for sign in (1, -1):
            moved = [side.values.clone() for side in sides]
            moved[which][at] += sign * step
            ends.append(float(regulariser(*(Reps(m, side.mask) for m, side in zip(moved, sides)))))
        assert float(leaf.grad[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("regulariser", [L1(), L2(), Flops(), GOR()])
def test_no_vectors_and_one_vector(regulariser: Regulariser):
    none = Reps(torch.zeros(0, 1, 4), torch.zeros(0, 1, dtype=torch.bool))
    one = Reps(torch.eye(4)[:1, None], torch.ones(1, 1, dtype=torch.bool))
    assert float(regulariser(none, none)) == 0.0
    assert float(regulariser(one, none)) == (0.0 if isinstance(regulariser, GOR) else 1.0)


def test_spread_vectors_cost_nothing_and_equal_ones_cost_most():
    equal = Reps(torch.ones(8, 1, 4), torch.ones(8, 1, dtype=torch.bool))
    spread = Reps(torch.cat([torch.eye(4), -torch.eye(4)])[:, None], torch.ones(8, 1, dtype=torch.bool))
    assert float(GOR()(equal, equal)) == pytest.approx(2 * (1 + 1 - 1 / 4))
    assert float(GOR()(spread, spread)) == pytest.approx(2 * (1 / 7) ** 2, rel=1e-5)


def test_sentence_transformers_has_the_same_gor():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    rng = np.random.default_rng(1)
    x, y = torch.tensor(rng.normal(size=(7, 4)) + 0.5), torch.tensor(rng.normal(size=(9, 4)))
    oracle = losses.GlobalOrthogonalRegularizationLoss(
        None, mean_weight=0.4, second_moment_weight=1.7, aggregation="sum"
    )
    expected = sum(oracle.compute_loss_from_embeddings([x, y]).values())
    ones = [torch.ones(len(side), 1, dtype=torch.bool) for side in (x, y)]
    ours = GOR(mean_weight=0.4, second_moment_weight=1.7)(Reps(x[:, None], ones[0]), Reps(y[:, None], ones[1]))
    assert float(ours) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    "make", [lambda: L1(-1.0), lambda: Flops(0.0, 0.0), lambda: GOR(mean_weight=0.0, second_moment_weight=0.0),
             lambda: GOR(mean_weight=float("nan"))],
)  # fmt: skip
def test_weights_that_make_no_sense_are_refused(make):
    with pytest.raises(RecipeError, match="0 or more"):
        make()
