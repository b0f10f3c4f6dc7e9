"""Every loss against a float64 NumPy reference, and the invariances its row declares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright import losses
from rankwright.errors import RecipeError
from rankwright.losses import (
    ADRMSE,
    ApproxMRR,
    ApproxNDCG,
    Hinge,
    InfoNCE,
    KLDivergence,
    LambdaLoss,
    ListMLE,
    ListNet,
    Loss,
    MarginMSE,
    Pearson,
    PListMLE,
    PointwiseBCE,
    PointwiseMSE,
    RankNet,
    SoftCrossEntropy,
    SymmetricInfoNCE,
    Wasserstein2,
)
from rankwright.losses._check import one_of

_spec = importlib.util.spec_from_file_location("losses_references", Path(__file__).with_name("references.py"))
assert _spec
assert _spec.loader
r = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(r)


@dataclass(frozen=True)
class Row:
    """One loss under test: add a row and every test below runs on it.

    `reference`: of (loss, scores, targets) of one list without masked places; of whole tables and their mask when the
    loss is not `per_query`. `smooth`: differentiable everywhere, so at equal scores as well.
    """

    loss: Loss
    reference: Callable[..., float]
    shift_invariant: bool = True
    order_invariant: bool = True
    smooth: bool = True
    atol: float = 1e-10


ROWS = [
    Row(InfoNCE(), r.infonce),
    Row(InfoNCE(temperature=1.0), r.infonce),
    Row(InfoNCE(temperature=0.02, positives="all"), r.infonce),
    Row(InfoNCE(temperature=0.5, positives="any"), r.infonce),
    Row(SymmetricInfoNCE(), r.symmetric),
    Row(SymmetricInfoNCE(temperature=1.0, positives="all", backward=0.3), r.symmetric),
    Row(KLDivergence(), r.kl),
    Row(KLDivergence(temperature=0.5, target_temperature=3.0), r.kl),
    Row(SoftCrossEntropy(temperature=2.0, target_temperature=0.5), r.soft_cross_entropy),
    Row(SoftCrossEntropy(normalise="sum"), r.soft_cross_entropy),
    Row(ListNet(), r.listnet),
    Row(ListNet(temperature=0.7, epsilon=1e-6), r.listnet),
    Row(Pearson(), r.pearson, smooth=False),
    Row(ListMLE(), r.plackett_luce),
    Row(ListMLE(temperature=0.5, ties="list"), r.plackett_luce, order_invariant=False),
    Row(PListMLE(), r.plackett_luce),
    Row(PListMLE(normalise=False), r.plackett_luce),
    Row(PListMLE(ties="list"), r.plackett_luce, order_invariant=False),
    Row(PointwiseMSE(), r.mse, shift_invariant=False),
    Row(PointwiseBCE(temperature=0.8), r.bce, shift_invariant=False),
    Row(MarginMSE(), r.margin_mse),
    Row(MarginMSE(pairs="top"), r.margin_mse),
    Row(MarginMSE(pairs="all"), r.margin_mse),
    Row(MarginMSE(margin=2.0), r.margin_mse),
    Row(MarginMSE(pairs="first"), r.margin_mse, order_invariant=False),
    Row(MarginMSE(pairs="first", reduction="sum"), r.margin_mse, order_invariant=False),
    Row(MarginMSE(pairs="first", margin=1.5), r.margin_mse, order_invariant=False),
    Row(Hinge(), r.hinge, smooth=False),
    Row(RankNet(), r.ranknet),
    Row(RankNet(temperature=0.1, reduction="sum"), r.ranknet),
    Row(RankNet(weight="student_rank"), r.ranknet, smooth=False),
    Row(RankNet(weight="teacher_rank"), r.ranknet),
    Row(RankNet(weight="difference"), r.ranknet),
    Row(RankNet(weight="squared_difference"), r.ranknet),
    Row(LambdaLoss(), r.lambda_loss, smooth=False),
    Row(LambdaLoss(weighting="ndcg1"), r.lambda_loss, smooth=False),
    Row(LambdaLoss(weighting="ndcg1", k=2), r.lambda_loss, smooth=False),
    Row(LambdaLoss(weighting="ndcg2", reduction="sum"), r.lambda_loss, smooth=False),
    Row(LambdaLoss(weighting="lambdarank", temperature=0.3, k=2), r.lambda_loss, smooth=False),
    Row(LambdaLoss(k=3, cut="both", mu=2.0), r.lambda_loss, smooth=False),
    Row(LambdaLoss(weighting="none", k=1), r.lambda_loss, smooth=False),
    Row(ApproxNDCG(), r.approx_ndcg),
    Row(ApproxNDCG(temperature=0.3, gain="linear"), r.approx_ndcg),
    Row(ApproxMRR(), r.approx_mrr, smooth=False),
    Row(ADRMSE(), r.adr_mse),
    Row(ADRMSE(discount="none"), r.adr_mse),
    Row(ADRMSE(discount="reciprocal", temperature=0.5), r.adr_mse),
    Row(Wasserstein2(), r.wasserstein, atol=2e-6),
    Row(Wasserstein2(temperature=0.5, target_temperature=0.3, pairing=0.4), r.wasserstein, atol=2e-6),
    Row(Wasserstein2(pairing=1.0), r.wasserstein),
]
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: repr(row.loss))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, m = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.normal(size=(q, m)) * draw(st.sampled_from([0.1, 1.0, 30.0, 1e4]))
    if draw(st.booleans()):
        scores = np.round(scores)  # ties
    targets = rng.integers(-1, 4, size=(q, m)).astype(float)
    if draw(st.booleans()):
        targets = rng.normal(size=(q, m)) * 2  # a teacher's scores
    return scores, targets, rng.random((q, m)) < draw(st.sampled_from([0.3, 0.8, 1.0]))


def _run(loss: Loss, scores, targets, mask) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = torch.tensor(scores, requires_grad=True)
    value = loss(leaf, torch.tensor(targets), torch.tensor(mask))
    value.sum().backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def test_every_exported_loss_has_a_row():
    exported = {name for name in losses.__all__ if name != "Loss" and issubclass(getattr(losses, name), Loss)}
    assert exported == {type(row.loss).__name__ for row in ROWS}


@rows
@given(problem=problems())
@settings(max_examples=15)
def test_equals_the_reference(row: Row, problem):
    scores, targets, mask = problem
    value, grad = _run(row.loss, scores, targets, mask)
    if row.loss.per_query:
        lists = zip(scores, targets, mask)
        counts = [k[0] if row.loss.anchored else k.any() for k in mask]
        expected = [row.reference(row.loss, s[k], t[k]) if c else 0.0 for (s, t, k), c in zip(lists, counts)]
    else:
        expected = row.reference(row.loss, scores, targets, mask)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=row.atol)
    assert torch.isfinite(grad).all()


@rows
@given(problem=problems(), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_the_gradient_is_that_of_central_differences(row: Row, problem, seed):
    scores, targets, mask = problem
    rng = np.random.default_rng(seed)
    scores = scores / max(1.0, np.abs(scores).max() / 3)
    if not row.smooth:
        scores = scores + rng.permutation(scores.size).reshape(scores.shape) * 0.00317
    _, grad = _run(row.loss, scores, targets, mask)
    step = 1e-6
    for direction in (*rng.normal(size=(1, *scores.shape)), mask.astype(float)):
        up, down = (float(_run(row.loss, scores + sign * step * direction, targets, mask)[0].sum()) for sign in (1, -1))
        slope = float((grad.numpy() * direction).sum())
        assert abs((up - down) / (2 * step) - slope) <= 1e-4 * max(1.0, float(grad.abs().sum()))


@rows
@given(problem=problems(), odd=st.sampled_from([7.0, -1e30, np.nan, np.inf, -np.inf]))
@settings(max_examples=12)
def test_masked_places_change_nothing_and_get_no_gradient(row: Row, problem, odd):
    scores, targets, mask = problem
    value, grad = _run(row.loss, scores, targets, mask)
    value2, grad2 = _run(row.loss, np.where(mask, scores, odd), np.where(mask, targets, -odd), mask)
    assert torch.equal(value, value2)
    assert torch.equal(grad, grad2)
    assert (grad[~torch.tensor(mask)] == 0).all()
    padded = [np.concatenate([x, np.full((len(x), 3), odd)], 1) for x in (scores, targets)]
    value3, grad3 = _run(row.loss, *padded, np.concatenate([mask, np.zeros((len(mask), 3), bool)], 1))
    torch.testing.assert_close(value3, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad3[:, : grad.shape[1]], grad, rtol=1e-12, atol=1e-12)
    assert (grad3[:, grad.shape[1] :] == 0).all()


@rows
@given(problem=problems(), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_order_of_documents_does_not_matter_and_rows_are_independent(row: Row, problem, seed):
    scores, targets, mask = problem
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    value, _ = _run(row.loss, scores, targets, mask)
    if row.order_invariant:
        moved, _ = _run(row.loss, scores[:, order], targets[:, order], mask[:, order])
        torch.testing.assert_close(moved, value, rtol=1e-11, atol=1e-11)
    if row.loss.per_query:
        alone = torch.cat([_run(row.loss, scores[[i]], targets[[i]], mask[[i]])[0] for i in range(len(scores))])
        torch.testing.assert_close(alone, value, rtol=1e-12, atol=1e-12)


@rows
@given(problem=problems())
@settings(max_examples=8)
def test_undefined_rows_are_zero_with_no_gradient(row: Row, problem):
    scores, targets, mask = problem
    value, grad = _run(row.loss, scores, targets, mask)
    undefined = ~row.loss.defined(torch.tensor(targets), torch.tensor(mask))
    if row.loss.per_query:
        assert (value[undefined] == 0).all()
    assert (grad[undefined] == 0).all()
    if row.shift_invariant and np.abs(scores).max() < 100:
        shifted, _ = _run(row.loss, scores + 2.0, targets, mask)
        torch.testing.assert_close(shifted, value, rtol=1e-9, atol=1e-9)


@rows
@pytest.mark.parametrize("size", [1e4, 1.0, 0.0])
def test_float32_neither_overflows_nor_loses_the_value(row: Row, size: float):
    """Scores of +-10^4, of everyday size, and all equal (a ranker's first step)."""
    rng = np.random.default_rng(3)
    scores = torch.tensor(rng.uniform(-1, 1, (5, 40)) * size, dtype=torch.float32, requires_grad=True)
    targets = torch.tensor(np.round(rng.gamma(0.7, size=(5, 40))), dtype=torch.float32)
    mask = torch.tensor(rng.random((5, 40)) < 0.9)
    value = row.loss(scores, targets, mask)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    exact = row.loss(scores.detach().double(), targets.double(), mask)
    atol = 1e-5 + 1e-6 * size / asdict(row.loss).get("temperature", 1.0)
    torch.testing.assert_close(value.detach().double(), exact, rtol=1e-4, atol=atol)


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


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [type(row.loss) for row in ROWS if "temperature" in asdict(row.loss)])
def test_temperature_must_be_positive(kind: type, temperature: float):
    with pytest.raises(RecipeError, match="temperature must be above 0"):
        kind(temperature=temperature)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: one_of("ties", "random", Literal["shared", "list"]), "ties must be one of shared, list, got 'random'"),
        (lambda: MarginMSE(pairs="all", margin=1.0), "a constant margin has no direction"),
        (lambda: MarginMSE(margin=-1.0), "margin must be above 0"),
        (lambda: LambdaLoss(k=0), "k must be at least 1"),
        (lambda: ListNet(epsilon=-1e-6), "epsilon must be at least 0"),
        (lambda: KLDivergence(target_temperature=0.0), "target_temperature must be above 0"),
        (lambda: SymmetricInfoNCE(backward=1.5), "backward must be from 0 to 1"),
        (lambda: Wasserstein2(pairing=-0.1), "pairing must be from 0 to 1"),
    ],
)
def test_what_cannot_be_computed_is_refused_when_written(make, message: str):
    with pytest.raises(RecipeError, match=message):
        make()


def test_the_papers_own_position_weights_are_refused_on_lists_they_overflow():
    scores, mask = torch.zeros(1, 101), torch.ones(1, 101, dtype=torch.bool)
    with pytest.raises(RecipeError, match="101 documents"):
        PListMLE(normalise=False)(scores, scores, mask)
    mask[0, 0] = False
    assert torch.isfinite(PListMLE(normalise=False)(scores, scores, mask)).all()
    long = torch.randn(1, 3000)
    assert torch.isfinite(PListMLE()(long, long.flip(-1), torch.ones_like(long, dtype=torch.bool))).all()


def test_a_target_of_a_thousand_overflows_no_gain():
    scores, targets = torch.randn(2, 4), torch.tensor([[1000.0, 999, 0, 0], [1000.0, 1000, 1000, 0]])
    for loss in (ApproxNDCG(), LambdaLoss(), LambdaLoss(weighting="ndcg1")):
        assert torch.isfinite(loss(scores, targets, torch.ones(2, 4, dtype=torch.bool))).all()


def test_equal_reciprocal_ranks_share_the_gradient_in_lists_of_any_width():
    """Sums in another order may differ in the last place; found by the test of masked places."""
    scores = np.array([[-1.0, -1, 1, -1, 1, 0, -1], [-1, 0, -2, 0, 0, 0, -1]])
    targets = np.array([[1.0, 3, 0, 3, 0, 0, 3], [3, 3, 0, 3, 2, 0, 2]])
    for extra in range(5):
        padded = [np.concatenate([x, np.full((2, extra), 7.0)], 1) for x in (scores, targets)]
        mask = np.concatenate([np.ones((2, 7), bool), np.zeros((2, extra), bool)], 1)
        _, grad = _run(ApproxMRR(), *padded, mask)
        assert np.ptp(grad[1, [1, 3, 4]].numpy()) < 1e-12
