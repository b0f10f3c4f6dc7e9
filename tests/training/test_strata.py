"""Strata against an independent NumPy computation: each of SR-DPR's pipelines, all pools, values, masks, gradients."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright.errors import RecipeError
from rankwright.losses import Flops, InfoNCE, MarginMSE
from rankwright.training import Memory, Objective, Pools, Step, Strata, Term
from rankwright.training.step import _columns
from rankwright.types import Batch

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
assert _spec
assert _spec.loader
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

PIPELINES = [
    ("batch", Strata("positive", ("hard", "random"))),  # inbatch
    ("drawn", Strata("positive", "random")),  # pos
    ("own", Strata("positive", "hard")),  # poshard
    ("drawn", Strata("hard", "random")),  # hard
    ("others", Strata("hard", "random")),
    ("others", Strata("positive", "random")),
    ("drawn", Strata("positive", ("hard", "random"))),
    ("batch", Strata(2.0, (1.0, 0.0))),
    ("own", Strata("positive", ("random", "hard"))),
]


def world(seed: int, *, queries: int = 6, docs: int = 16) -> tuple[Batch, dict[tuple[int, int], float]]:
    """A batch of strata, and what the source knows of every pair (absent: nothing)."""
    rng = np.random.default_rng(seed)
    known: dict[tuple[int, int], float] = {}
    lists = np.zeros((queries, 4), np.int64)
    mask = np.zeros((queries, 4), bool)
    for q in range(queries):
        own = rng.choice(docs, size=7, replace=False)
        for place, doc in enumerate(own):
            known[q, int(doc)] = [2.0, 1.0, 1.0, 0.0, 2.0, 1.0, 0.0][place]  # four of them can enter the list
        n = int(rng.integers(1, 5))
        lists[q, :n], mask[q, :n] = own[:n], True
    targets = np.array([[known.get((q, int(d)), 0.0) for d in lists[q]] for q in range(queries)]) * mask
    pairs = sorted(known)
    batch = Batch(
        toys.texts(rng, queries, 5), toys.texts(rng, docs, 9), torch.tensor(lists), torch.tensor(targets).float(),
        torch.tensor(mask), torch.tensor([q for q, _ in pairs]), torch.tensor([d for _, d in pairs]),
        torch.tensor([known[p] for p in pairs]).float(), tuple(f"q{i}" for i in range(queries)),
        tuple(f"d{i}" for i in range(docs)), drawn=tuple(f"d{i}" for i in rng.choice(docs, 6, replace=False)),
    )  # fmt: skip
    return batch, known


def contrast(
    batch: Batch, known: dict[tuple[int, int], float], scores: np.ndarray, against: str, strata: Strata
) -> float:
    """-log(e^s+ / (e^s+ + sum e^s-)), the mean over relevant documents of a query, then over queries that have one."""
    names = {"positive": 2.0, "hard": 1.0, "random": 0.0}
    grade = lambda s: names.get(s, s)  # noqa: E731
    upper = grade(strata.upper)
    lower = {grade(s) for s in (strata.lower if isinstance(strata.lower, tuple) else (strata.lower,))}
    rows = []
    for q in range(len(batch.query_ids)):
        own = [d for d, m in zip(batch.lists[q].tolist(), batch.mask[q].tolist()) if m]
        everything = range(len(batch.doc_ids))
        pool = {
            "own": own, "batch": everything, "others": [d for d in everything if d not in own],
            "drawn": [*own, *(batch.doc_ids.index(d) for d in batch.drawn)],
        }[against]  # fmt: skip
        negatives = [d for d in dict.fromkeys(pool) if known.get((q, d), 0.0) in lower]
        losses = []
        for d in own:
            if known[q, d] == upper:
                logits = np.array([scores[q, d], *(scores[q, n] for n in negatives)])
                losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[0])
        if losses:
            rows.append(np.mean(losses))
    return float(np.mean(rows)) if rows else 0.0


def scores_of(ranker, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return ranker.compare(ranker.represent(batch.queries, "query"), ranker.represent(batch.docs, "doc"))


@pytest.mark.parametrize(("against", "strata"), PIPELINES)
@pytest.mark.parametrize("seed", range(4))
def test_a_pipeline_is_its_formula(against: str, strata: Strata, seed: int):
    batch, known = world(seed)
    ranker = toys.Toy(late=False, dropout=0.0)
    expected = contrast(batch, known, scores_of(ranker, batch).numpy(), against, strata)
    term = Term(InfoNCE(temperature=1.0), against=against, strata=strata)
    for memory in (Memory(), Memory(tokens=8, graph_tokens=0, rows=1)):
        ranker.zero_grad()
        result = Step(ranker, Objective([term]), memory=memory)(batch, step=0)
        assert result.loss == pytest.approx(expected, rel=1e-12)


def test_the_joint_objective_is_the_sum_of_its_strata():
    batch, known = world(9)
    ranker = toys.Toy(late=False, dropout=0.0)
    scores = scores_of(ranker, batch).numpy()
    terms = [Term(InfoNCE(temperature=1.0), against=a, strata=s, weight=0.5 + i) for i, (a, s) in enumerate(PIPELINES)]
    expected = sum((0.5 + i) * contrast(batch, known, scores, a, s) for i, (a, s) in enumerate(PIPELINES))
    assert Step(ranker, Objective(terms))(batch, step=0).loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("against", "strata"), PIPELINES[:4])
def test_gradients_are_those_of_finite_differences(against: str, strata: Strata):
    batch, known = world(3)
    ranker = toys.Toy(late=False, dropout=0.0)
    Step(ranker, Objective([Term(InfoNCE(temperature=1.0), against=against, strata=strata)]))(batch, step=0)
    weight = ranker.mix.weight
    assert weight.grad is not None
    for place in ((0, 0), (2, 3)):
        values = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] += shift
            values.append(contrast(batch, known, scores_of(ranker, batch).numpy(), against, strata))
            with torch.no_grad():
                weight[place] -= shift
        assert float(weight.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_without_strata_the_drawn_pool_holds_the_own_list_and_what_was_drawn():
    batch, known = world(5)
    columns = len(batch.doc_ids)
    pools = Pools.build(
        columns, lists=batch.lists, targets=batch.targets, mask=batch.mask,
        known=(batch.known_queries, batch.known_docs, batch.known_targets), absent=torch.zeros(0, dtype=torch.int64),
        drawn=torch.tensor([batch.doc_ids.index(name) for name in batch.drawn]),
    )  # fmt: skip
    targets, mask = pools.of("drawn", slice(0, len(batch.query_ids)))
    for q in range(len(batch.query_ids)):
        own = {d for d, m in zip(batch.lists[q].tolist(), batch.mask[q].tolist()) if m}
        drawn = {batch.doc_ids.index(name) for name in batch.drawn}
        wanted = own | {d for d in drawn if known.get((q, d), 0.0) <= 0}
        assert set(mask[q].nonzero().squeeze(-1).tolist()) == wanted
        assert all(float(targets[q, d]) == known.get((q, d), 0.0) for d in wanted)


def test_an_anchored_loss_sees_the_strata_of_its_pool_alone():
    batch, known = world(7)
    pools = Pools.build(
        len(batch.doc_ids), lists=batch.lists, targets=batch.targets, mask=batch.mask,
        known=(batch.known_queries, batch.known_docs, batch.known_targets), absent=torch.zeros(0, dtype=torch.int64),
    )  # fmt: skip
    strata = Strata("positive", "random")
    assert MarginMSE(pairs="first").anchored
    targets, mask = pools.of("others", slice(0, 6), anchored=True, strata=strata)
    first = batch.lists[:, 0].tolist()
    for q in range(6):
        assert bool(mask[q, 0])
        assert float(targets[q, 0]) == 1.0  # the list's first is its positive
        own = {d for d, m in zip(batch.lists[q].tolist(), batch.mask[q].tolist()) if m}
        others = {d for d in range(len(batch.doc_ids)) if d not in own and known.get((q, d), 0.0) == 0.0}
        assert set((mask[q, 1:]).nonzero().squeeze(-1).tolist()) == others, first[q]


def test_drawn_columns_are_those_where_a_document_first_stands():
    batch = replace(world(1)[0], doc_ids=("a", "b", "a", "c"), drawn=("c", "a"))
    _, absent, drawn = _columns(replace(batch, lists=batch.lists % 4), [2, 2])
    assert (absent.tolist(), drawn.tolist()) == ([2], [3, 0])


def test_strata_of_a_recipe_are_checked():
    assert Strata("hard", ("random", -1.0)).low == (0.0, -1.0)
    for upper, lower in (("hard", "hard"), (1.0, ("random", "hard")), (float("nan"), 0.0), ("positive", ())):
        with pytest.raises(RecipeError):
            Strata(upper, lower)
    with pytest.raises(RecipeError, match="no strata"):
        Term(regulariser=Flops(), strata=Strata())
