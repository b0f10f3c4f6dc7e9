"""Losses against sentence-transformers' cross-encoder losses, on lists of equal length (it averages over the batch)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from rankwright.losses import ADRMSE, LambdaLoss, ListMLE, ListNet, Loss, MarginMSE, PListMLE, RankNet

pytestmark = pytest.mark.oracle
ce = pytest.importorskip("sentence_transformers.cross_encoder.losses")
lambdas = pytest.importorskip("sentence_transformers.cross_encoder.losses.lambda_loss")
CrossEncoder = pytest.importorskip("sentence_transformers").CrossEncoder

SORTED = "targets descending, as their ListMLE takes the list's order for the wanted one"


class Table(CrossEncoder):
    """A cross-encoder whose score of (query, document) is read from a table: texts are row and column."""

    def __init__(self, scores: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.scores = scores

    num_labels = property(lambda self: 1)
    device = property(lambda self: torch.device("cpu"))

    def preprocess(self, pairs, prompt=None, task=None):
        return {"at": torch.tensor([[int(a), int(b)] for a, b in pairs])}

    def forward(self, tokens):
        row, column = tokens["at"].T
        return {"scores": self.scores[row, column].unsqueeze(-1)}


CASES: list[tuple[Loss, Callable, float, str]] = [
    (LambdaLoss(), lambda m: ce.LambdaLoss(m), 1.0, ""),
    (LambdaLoss(weighting="ndcg1"), lambda m: ce.LambdaLoss(m, lambdas.NDCGLoss1Scheme()), 1.0, ""),
    (LambdaLoss(weighting="ndcg2"), lambda m: ce.LambdaLoss(m, lambdas.NDCGLoss2Scheme()), 1.0, ""),
    (LambdaLoss(weighting="lambdarank"), lambda m: ce.LambdaLoss(m, lambdas.LambdaRankScheme()), 1.0, ""),
    (LambdaLoss(weighting="none"), lambda m: ce.RankNetLoss(m), 1.0, ""),
    (LambdaLoss(weighting="ndcg1", k=3), lambda m: ce.LambdaLoss(m, lambdas.NDCGLoss1Scheme(), k=3), 1.0, ""),
    (LambdaLoss(temperature=0.5), lambda m: ce.LambdaLoss(m, sigma=2.0), 1.0, ""),
    (RankNet(), lambda m: ce.RankNetLoss(m), math.log(2), ""),
    (RankNet(temperature=4.0), lambda m: ce.RankNetLoss(m, sigma=0.25, reduction_log="natural"), 1.0, ""),
    (ListNet(), lambda m: ce.ListNetLoss(m), 1.0, ""),
    (ListMLE(ties="list"), lambda m: ce.ListMLELoss(m), 1.0, SORTED),
    (PListMLE(ties="list"), lambda m: ce.PListMLELoss(m), 1.0, SORTED),
    (ListMLE(), lambda m: ce.ListMLELoss(m, respect_input_order=False), 1.0, "all targets different"),
    (PListMLE(), lambda m: ce.PListMLELoss(m, respect_input_order=False), 1.0, "all targets different"),
    (ADRMSE(), lambda m: ce.ADRMSELoss(m), 1.0, ""),
    (ADRMSE(temperature=0.5), lambda m: ce.ADRMSELoss(m, alpha=2.0), 1.0, ""),
    (MarginMSE(pairs="top"), lambda m: ce.MarginMSELoss(m), 1.0, "one document above all others, first"),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case[0]))
def test_equals_sentence_transformers(case, seed: int):
    loss, theirs, factor, kind = case
    q, m = 5, 7
    made = torch.Generator().manual_seed(seed)
    scores = torch.randn(q, m, generator=made) * 3
    same = torch.tensor([3.0, 2, 1, 1, 0, 0, 0])  # as many pairs in every list
    targets = torch.stack([same[torch.randperm(m, generator=made)] for _ in range(q)])
    if kind == SORTED:
        targets = same.expand(q, m).clone()
    elif kind == "all targets different":
        targets = torch.randn(q, m, generator=made)
    elif kind:
        targets = torch.randn(q, m, generator=made)
        targets[:, 0] = targets.amax(-1) + 1
    ours, other = (scores.clone().requires_grad_() for _ in range(2))
    value = loss(ours, targets, torch.ones(q, m, dtype=torch.bool)).mean()
    texts = [str(j) for j in range(m)]
    if isinstance(loss, MarginMSE):
        columns = [[str(i) for i in range(q)], *([text] * q for text in texts)]
        expected = theirs(Table(other))(columns, targets) * factor
    else:
        expected = theirs(Table(other))([[str(i) for i in range(q)], [texts] * q], list(targets)) * factor
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-6)
