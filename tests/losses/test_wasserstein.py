"""The Wasserstein loss against SyCL's own formula, what it cannot tell apart, and what its options mend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankwright.losses import Wasserstein2


def _batch(queries: int, own: list[float], seed: int = 0):
    """In-batch scores and block-diagonal targets of `queries` lists."""
    rng = np.random.default_rng(seed)
    targets = np.kron(np.eye(queries), np.array(own)[None])
    return rng.normal(size=targets.shape) + targets, targets, np.ones(targets.shape, bool)


def _value(loss: Wasserstein2, scores, targets, mask) -> float:
    return float(loss(torch.tensor(scores), torch.tensor(targets), torch.tensor(mask)))


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@pytest.mark.parametrize(("queries", "temperature"), [(1, 1.0), (2, 1.0), (8, 0.5), (20, 1.0)])
def test_equals_the_published_formula(queries: int, temperature: float):
    """Step by step: full covariances, the eigenvalues of A A^T by a general solver, 1e-15 under the root."""
    scores, targets, mask = _batch(queries, [3, 2, 1, 0])
    p, q = _softmax(scores / temperature), _softmax(targets)
    factor = 1 / (queries - 1) if queries > 1 else 1.0
    e_p, e_q = ((x - x.mean(0)).T * np.sqrt(factor) for x in (p, q))
    a = e_p.T @ e_q
    root = np.abs(np.sqrt(np.linalg.eigvals(a @ a.T).astype(complex) + 1e-15)).sum()
    covariances = np.trace(e_p @ e_p.T) + np.trace(e_q @ e_q.T)
    expected = np.sum((p.mean(0) - q.mean(0)) ** 2) + covariances - 2 * root
    assert _value(Wasserstein2(temperature=temperature), scores, targets, mask) == pytest.approx(expected, abs=3e-8)


def test_the_published_loss_does_not_know_whose_prediction_is_whose_and_pairing_does():
    _, targets, mask = _batch(12, [3, 2, 1, 0])
    right, wrong = targets, np.roll(targets, 1, axis=0)
    assert abs(_value(Wasserstein2(), right, targets, mask)) < 1e-6
    assert abs(_value(Wasserstein2(), wrong, targets, mask)) < 1e-6
    paired = Wasserstein2(pairing=1.0)
    p, q = _softmax(wrong), _softmax(targets)
    assert abs(_value(paired, right, targets, mask)) < 1e-12
    assert _value(paired, wrong, targets, mask) == pytest.approx(np.sum((p - q) ** 2) / 11, rel=1e-9)


def test_pairing_bounds_the_loss_from_above():
    scores, targets, mask = _batch(10, [3, 1, 0])
    values = [_value(Wasserstein2(pairing=share), scores, targets, mask) for share in (0.0, 0.5, 1.0)]
    assert values[0] < values[1] < values[2]
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-9)


def test_sharpness_of_the_targets_by_batch_size():
    """The figures of the docstring: how much of the target mass a query's own four documents hold."""
    for temperature, queries, expected in [(1.0, 64, 0.11), (0.3, 64, 0.99), (0.3, 512, 0.91)]:
        _, targets, _ = _batch(queries, [3, 2, 1, 0])
        own = _softmax(targets / temperature)[0, :4].sum()
        assert own == pytest.approx(expected, abs=0.01)


def test_one_query_and_equal_rows_have_finite_gradients():
    """Singular values of 0: their own gradient does not exist, the loss's must."""
    for scores in (torch.zeros(1, 4), torch.zeros(6, 8), torch.randn(1, 8).repeat(6, 1)):
        leaf = scores.double().requires_grad_()
        targets = torch.zeros_like(scores)
        targets[:, 0] = 2.0
        Wasserstein2()(leaf, targets.double(), torch.ones_like(scores, dtype=torch.bool)).backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
