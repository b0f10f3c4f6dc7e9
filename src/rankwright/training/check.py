"""The gradient proof on the user's own recipe: every way of running the step against plain autograd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..models import Ranker
from ..types import Batch
from .memory import Memory
from .objective import Objective
from .pools import Pools
from .step import Step, dropout_keys
from .widths import scores_at

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class GradientCheck:
    """One way of running the step: relative L2 distance of its gradient from plain autograd's, and of its loss."""

    way: str
    gradient: float
    loss: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.gradient <= self.tolerance and self.loss <= self.tolerance  # false where either is no number


def check_gradients(
    ranker: Ranker, objective: Objective, batch: Batch, *, seed: int = 0, device: str = "cpu"
) -> Iterator[GradientCheck]:
    """Yield one result per way: plain, fully cached, partly cached, one text at a time, one query at a time.

    Dropout is on. The reference represents all texts at once and differentiates through everything; it shares no code
    with the step but the ranker, the loss and the dropout keys. Use float64 for a sharp verdict.
    """
    ranker.train()
    expected_loss, expected = _plain(ranker, objective, batch, seed, device)
    norm = sum(float(g.square().sum()) for g in expected.values()) ** 0.5
    tokens = sum(len(t.values) for t in (batch.queries, batch.docs))
    ways = {
        "one pass, graphs kept": Memory(tokens=10**9, graph_tokens=10**9),
        "fully cached": Memory(tokens=max(64, tokens // 4), graph_tokens=0),
        "partly cached": Memory(tokens=max(64, tokens // 6), graph_tokens=tokens // 2),
        "one text at a time": Memory(tokens=1, graph_tokens=0),
        "one query's scores at a time": Memory(tokens=max(64, tokens // 4), graph_tokens=0, rows=1),
    }
    for way, memory in ways.items():
        ranker.zero_grad(set_to_none=True)
        result = Step(ranker, objective, memory=memory, seed=seed, device=device)(batch, step=0)
        difference = 0.0
        for name, parameter in ranker.named_parameters():
            if parameter.requires_grad:
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                difference += float((grad - expected[name]).square().sum())
        yield GradientCheck(
            way,
            difference**0.5 / max(norm, 1e-30),
            abs(result.loss - expected_loss) / max(abs(expected_loss), 1e-30),
            TOLERANCE[next(iter(expected.values())).dtype],
        )
    ranker.eval()


def _plain(
    ranker: Ranker, objective: Objective, batch: Batch, seed: int, device: str
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient by one forward and one backward over the whole batch."""
    query_keys = dropout_keys(batch.query_ids, "query", seed=seed, step=0)
    doc_keys = dropout_keys(batch.doc_names, "doc", seed=seed, step=0)
    queries = ranker.represent(batch.queries.with_keys(query_keys).to(device), "query")
    docs = ranker.represent(batch.docs.with_keys(doc_keys).to(device), "doc")
    scores = scores_at(ranker, queries, docs, objective.widths)
    pools = Pools.build(
        len(batch.docs),
        lists=batch.lists.to(device),
        targets=batch.targets.to(device),
        mask=batch.mask.to(device),
        known=(batch.known_queries.to(device), batch.known_docs.to(device), batch.known_targets.to(device)),
        absent=torch.zeros(0, dtype=torch.int64, device=device),
        taught=tuple(None if told is None else told.to(device) for told in objective.taught(batch)),
        drawn=torch.tensor([batch.doc_names.index(name) for name in batch.drawn], dtype=torch.int64, device=device),
    )
    ranker.zero_grad(set_to_none=True)
    everything = slice(0, len(batch.queries))
    loss = objective.penalty(queries, docs)
    if scores:
        loss = loss + objective(scores, pools, rows=everything, denominators=objective.defined(pools))
    if loss.requires_grad:
        loss.backward()
    gradient = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in ranker.named_parameters()
        if p.requires_grad
    }
    return float(loss.detach()), gradient
