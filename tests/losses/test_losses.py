"""Every loss against a float64 NumPy reference, and the invariances its row declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright import losses
from rankwright.errors import RecipeError
from rankwright.losses import InfoNCE, Loss


def _reference_infonce(loss: InfoNCE, s: np.ndarray, t: np.ndarray) -> float:
    """One row, masked-in places only."""
    s = s / loss.temperature
    relevant, others = s[t > 0], s[t <= 0]
    if not len(relevant):
        return 0.0
    if loss.positives == "any":
        return float(np.logaddexp.reduce(s) - np.logaddexp.reduce(relevant))
    pools = [np.append(others, p) if loss.positives == "each" else s for p in relevant]
    return float(np.mean([np.logaddexp.reduce(pool) - p for pool, p in zip(pools, relevant)]))


@dataclass(frozen=True)
class Row:
    """One loss under test: add a row and every test below runs on it."""

    loss: Loss
    reference: Callable[..., float]
    shift_invariant: bool = True


ROWS = [
    Row(InfoNCE(), _reference_infonce),
    Row(InfoNCE(temperature=1.0), _reference_infonce),
    Row(InfoNCE(temperature=0.02, positives="all"), _reference_infonce),
    Row(InfoNCE(temperature=0.5, positives="any"), _reference_infonce),
]
rows = pytest.mark.parametrize("row", ROWS, ids=lambda r: repr(r.loss))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, m = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=(q, m)) * draw(st.sampled_from([0.1, 1.0, 30.0, 1e4]))
    if draw(st.booleans()):
        scores = np.round(scores)  # ties
    targets = rng.integers(-1, 4, size=(q, m)).astype(float)
    return scores, targets, rng.random((q, m)) < draw(st.sampled_from([0.3, 0.8, 1.0]))


def _run(loss: Loss, scores, targets, mask) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = torch.tensor(scores, requires_grad=True)
    value = loss(leaf, torch.tensor(targets), torch.tensor(mask))
    value.sum().backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def test_every_exported_loss_has_a_row():
    exported = {name for name in losses.__all__ if name != "Loss"}
    assert exported == {type(row.loss).__name__ for row in ROWS}


@rows
@given(problem=problems())
@settings(max_examples=60)
def test_equals_the_reference(row: Row, problem):
    scores, targets, mask = problem
    value, grad = _run(row.loss, scores, targets, mask)
    expected = [row.reference(row.loss, s[k], t[k]) for s, t, k in zip(scores, targets, mask)]
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=1e-10)
    assert torch.isfinite(grad).all()


@rows
@given(problem=problems())
@settings(max_examples=40)
def test_the_gradient_is_that_of_central_differences(row: Row, problem):
    scores, targets, mask = problem
    scores = scores / max(1.0, np.abs(scores).max() / 3)
    _, grad = _run(row.loss, scores, targets, mask)
    step = 1e-6
    for place in np.ndindex(*scores.shape):
        nudge = np.zeros_like(scores)
        nudge[place] = step
        up, down = (float(_run(row.loss, scores + sign * nudge, targets, mask)[0].sum()) for sign in (1, -1))
        assert abs((up - down) / (2 * step) - float(grad[place])) <= 1e-4 * max(1.0, abs(float(grad[place])))


@rows
@given(problem=problems())
@settings(max_examples=40)
def test_masked_places_change_nothing_and_get_no_gradient(row: Row, problem):
    scores, targets, mask = problem
    value, grad = _run(row.loss, scores, targets, mask)
    other = np.where(mask, scores, -scores * 3 + 7)
    value2, grad2 = _run(row.loss, other, np.where(mask, targets, 5 - targets), mask)
    assert torch.equal(value, value2)
    assert torch.equal(grad, grad2)
    assert (grad[~torch.tensor(mask)] == 0).all()
    padded = [np.concatenate([x, np.ones((len(x), 3), x.dtype)], 1) for x in (scores, targets)]
    value3, grad3 = _run(row.loss, *padded, np.concatenate([mask, np.zeros((len(mask), 3), bool)], 1))
    torch.testing.assert_close(value3, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad3[:, : grad.shape[1]], grad, rtol=1e-12, atol=1e-12)


@rows
@given(problem=problems(), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_order_of_documents_does_not_matter_and_rows_are_independent(row: Row, problem, seed):
    scores, targets, mask = problem
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    value, _ = _run(row.loss, scores, targets, mask)
    moved, _ = _run(row.loss, scores[:, order], targets[:, order], mask[:, order])
    torch.testing.assert_close(moved, value, rtol=1e-11, atol=1e-11)
    if row.loss.per_query:
        alone = torch.cat([_run(row.loss, scores[[i]], targets[[i]], mask[[i]])[0] for i in range(len(scores))])
        torch.testing.assert_close(alone, value, rtol=1e-12, atol=1e-12)


@rows
@given(problem=problems())
@settings(max_examples=20)
def test_undefined_rows_are_zero_with_no_gradient(row: Row, problem):
    scores, targets, mask = problem
    value, grad = _run(row.loss, scores, targets, mask)
    undefined = ~row.loss.defined(torch.tensor(targets), torch.tensor(mask))
    assert (value[undefined] == 0).all()
    assert (grad[undefined] == 0).all()
    if row.shift_invariant and np.abs(scores).max() < 100:
        shifted, _ = _run(row.loss, scores + 2.0, targets, mask)
        torch.testing.assert_close(shifted, value, rtol=1e-9, atol=1e-9)


@rows
def test_gradcheck(row: Row):
    torch.manual_seed(0)
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, 0, 0, 2, 0], [0, 0, 0, 0, 0], [3.0, 0, -1, 0, 0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda s: row.loss(s, targets, mask), scores)


def test_infonce_is_the_cross_entropy_of_sentence_transformers():
    """One positive a row on the diagonal, scale 20: torch's own cross-entropy."""
    scores = torch.randn(6, 9, dtype=torch.float64)
    targets = torch.eye(6, 9, dtype=torch.float64)
    ours = InfoNCE(temperature=0.05)(scores, targets, torch.ones(6, 9, dtype=torch.bool)).mean()
    theirs = torch.nn.functional.cross_entropy(scores * 20, torch.arange(6))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature: float):
    with pytest.raises(RecipeError, match="temperature must be above 0"):
        InfoNCE(temperature=temperature)
