"""The gradient proof: every ranker x pool x loss x caching x chunk x ranks, dropout on, against plain autograd."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankwright.errors import ResourceError
from rankwright.losses import GOR, L1, L2, Flops, InfoNCE, KLDivergence, LambdaLoss, RankNet
from rankwright.training import Memory, Objective, Step, Strata, Term
from rankwright.training.step import dropout_keys, micro_batches
from rankwright.types import Reps, Texts

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
assert _spec
assert _spec.loader
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

SEED, STEP = 3, 11
LOSSES = [InfoNCE(temperature=0.7), InfoNCE(temperature=0.5, positives="all"), InfoNCE(positives="any")]
POOLS = ["own", "others", "batch", "mixed", "drawn", "strata", "matryoshka", "regularised", "regularisers alone"]
MEMORIES = [
    Memory(tokens=tokens, graph_tokens=graph, rows=rows)
    for tokens, graph, rows in product([1, 30, 10**9], [0, 40, 10**9], [1, 7, None])
]


def terms_of(against: str) -> list[Term]:
    if against == "mixed":
        return [Term(LOSSES[0], "own", 0.4), Term(LOSSES[1], "batch", 1.1), Term(LOSSES[2], "others", 0.2)]
    if against == "strata":
        two = Strata(2.0, (1.0, 0.0)), Strata(1.0, 0.0)
        return [Term(LOSSES[0], "batch", strata=two[0]), Term(LOSSES[1], "drawn", 0.6, strata=two[1])]
    if against == "matryoshka":
        return [Term(LOSSES[0], "batch", 0.7, dims=(6, 3), dims_weights=(1.0, 0.4)), Term(LOSSES[1], "own", dims=(2,))]
    if against == "regularised":
        spread = [Flops(0.3, 0.1), GOR(1.5, 0.5, mean_weight=2.0), L1(0.01, 0.02), L2(0.03, 0.0)]
        return [Term(LOSSES[0], "batch"), *(Term(weight=0.6, regulariser=regulariser) for regulariser in spread)]
    if against == "regularisers alone":
        return [Term(regulariser=Flops())]
    return [Term(LOSSES[0], against)]  # type: ignore[arg-type]


def cut(ranker, reps: Reps, width: int | None) -> Reps:
    """Vectors cut to their first dimensions, as the Matryoshka paper has it."""
    values = reps.values if width is None else reps.values[:, :, :width]
    if width is not None and ranker.normalised:
        values = values / values.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return Reps(values, reps.mask)


def penalty(regulariser, reps) -> torch.Tensor:
    """A regulariser over both sides, with tables of all pairs."""
    total = torch.zeros((), dtype=torch.float64)
    for weight, side in zip((regulariser.query_weight, regulariser.doc_weight), reps):
        x = side.values[side.mask]
        if isinstance(regulariser, GOR):
            unit = x / x.norm(dim=-1, keepdim=True)
            cosines = (unit @ unit.T)[~torch.eye(len(x), dtype=torch.bool)]
            second = (cosines.square().mean() - 1 / x.shape[1]).clamp(min=0)
            value = regulariser.mean_weight * cosines.mean() ** 2 + regulariser.second_moment_weight * second
        elif isinstance(regulariser, Flops):
            value = sum((x[:, j].abs().sum() / len(x)) ** 2 for j in range(x.shape[1]))
        else:
            value = (x.abs() if isinstance(regulariser, L1) else x**2).sum() / len(x)
        total = total + weight * value
    return total


def reference(ranker, batch, terms) -> tuple[float, dict[str, torch.Tensor]]:
    """Plain autograd over the whole batch at once, with pools written out as Python loops."""
    queries = batch.queries.with_keys(dropout_keys(batch.query_ids, "query", seed=SEED, step=STEP))
    docs = batch.docs.with_keys(dropout_keys(batch.doc_names, "doc", seed=SEED, step=STEP))
    reps = ranker.represent(queries, "query"), ranker.represent(docs, "doc")
    known = dict(zip(zip(batch.known_queries.tolist(), batch.known_docs.tolist()), batch.known_targets.tolist()))
    total = torch.zeros((), dtype=torch.float64)
    for term, width, factor in [(t, w, f) for t in terms for w, f in t.widths.items()]:
        if term.regulariser is not None:
            total = total + term.weight * penalty(term.regulariser, reps)
            continue
        scores = ranker.compare(*(cut(ranker, side, width) for side in reps))
        values = []
        for q in range(len(scores)):
            own = {
                d: t for d, t, m in zip(batch.lists[q].tolist(), batch.targets[q].tolist(), batch.mask[q].tolist()) if m
            }
            pool, strata = dict(own), term.strata
            others = range(scores.shape[1]) if term.against != "own" else ()
            if term.against == "drawn":
                others = [batch.doc_ids.index(name) for name in batch.drawn]
            grades = {d: known.get((q, d), 0.0) for d in others if d not in own}
            pool |= {d: t for d, t in grades.items() if (t <= 0 if strata is None else t in strata.low)}
            if strata is not None:
                pool = {d: float(t == strata.high) for d, t in pool.items() if t == strata.high or t in strata.low}
            if term.against == "others":
                pool = {d: t for d, t in pool.items() if d not in own or t > 0}
            target, there = torch.tensor(list(pool.values()), dtype=torch.float64), torch.ones(1, len(pool)).bool()
            if not any(t > 0 for t in pool.values()) or not bool(term.loss.defined(target[None], there)[0]):
                continue
            values.append(term.loss(scores[q, list(pool)][None], target[None], there)[0])
        total = total + term.weight * factor * torch.stack(values).mean()
    ranker.zero_grad()
    total.backward()
    return float(total.detach()), {n: p.grad.clone() for n, p in ranker.named_parameters()}


def distance(ranker, expected: dict[str, torch.Tensor]) -> float:
    difference = sum(float((p.grad - expected[n]).square().sum()) for n, p in ranker.named_parameters())
    return (difference / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


@pytest.mark.parametrize("late", [False, True], ids=["dense", "late"])
@pytest.mark.parametrize("against", POOLS)
def test_gradient_is_the_same_in_any_memory(late: bool, against: str):
    ranker, batch = toys.Toy(late=late), toys.make_batch(np.random.default_rng(1))
    ranker.normalised = late  # of both ways one, where vectors are cut
    terms = terms_of(against)
    value, expected = reference(ranker, batch, terms)
    for memory in MEMORIES if against in POOLS[:4] else MEMORIES[::4]:
        ranker.zero_grad()
        result = Step(ranker, Objective(terms), memory=memory, seed=SEED)(batch, step=STEP)
        assert abs(result.loss - value) <= 1e-12 * abs(value)
        assert distance(ranker, expected) <= 1e-12, memory


@pytest.mark.parametrize("loss", [RankNet(), LambdaLoss(), KLDivergence(), InfoNCE()], ids=lambda x: type(x).__name__)
def test_gradient_of_a_cross_encoder_is_the_same_in_any_memory(loss):
    """Pairs are the documents of such a batch: what is cached is their scores."""
    batch, terms = toys.make_pairs(np.random.default_rng(2)), [Term(loss, "own")]
    value, expected = reference(toys.CrossToy(), batch, terms)
    assert float(expected["embed.weight"].abs().sum()) > 0
    for memory in MEMORIES[::2]:
        ranker = toys.CrossToy()
        result = Step(ranker, Objective(terms), memory=memory, seed=SEED)(batch, step=STEP)
        assert abs(result.loss - value) <= 1e-12 * abs(value)
        assert distance(ranker, expected) <= 1e-12, memory
        assert result.masked == 0


def test_a_pair_has_its_own_dropout():
    """The same document under two queries is two texts: their masks differ."""
    batch = toys.make_pairs(np.random.default_rng(2))
    assert len(set(batch.doc_names)) == len(batch.docs) > len(set(batch.doc_ids))
    keys = dropout_keys(batch.doc_names, "doc", seed=SEED, step=STEP)
    assert len(keys.unique()) == len(batch.docs)


def test_dropout_is_on_and_depends_on_the_step():
    ranker, batch = toys.Toy(late=False), toys.make_batch(np.random.default_rng(1))
    step = Step(ranker, Objective(terms_of("batch")), seed=SEED)
    losses = [step(batch, step=k).loss for k in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_gradients_accumulate_with_weights():
    ranker, rng = toys.Toy(late=False), np.random.default_rng(5)
    first, second = toys.make_batch(rng), toys.make_batch(rng)
    step = Step(ranker, Objective(terms_of("batch")), seed=SEED)
    step(first, step=STEP, weight=0.25)
    step(second, step=STEP, weight=0.75)
    one, two = reference(toys.Toy(late=False), first, terms_of("batch"))[1], None
    two = reference(toys.Toy(late=False), second, terms_of("batch"))[1]
    assert distance(ranker, {n: 0.25 * one[n] + 0.75 * two[n] for n in one}) <= 1e-12


def test_known_relevant_documents_of_the_batch_are_masked_and_counted():
    batch = toys.make_batch(np.random.default_rng(1))
    own = {(q, d) for q in range(7) for d, m in zip(batch.lists[q].tolist(), batch.mask[q].tolist()) if m}
    known = zip(batch.known_queries.tolist(), batch.known_docs.tolist(), batch.known_targets.tolist())
    expected = sum(1 for q, d, t in known if t > 0 and (q, d) not in own)
    result = Step(toys.Toy(late=False), Objective(terms_of("batch")), seed=SEED)(batch, step=STEP)
    assert expected > 0
    assert result.masked == expected
    assert result.texts == 22
    assert result.tokens == len(batch.queries.values) + len(batch.docs.values)


@pytest.mark.parametrize("late", [False, True], ids=["dense", "late"])
def test_out_of_memory_anywhere_changes_nothing_but_the_budget(late: bool):
    batch, terms = toys.make_batch(np.random.default_rng(1)), terms_of("mixed")
    value, expected = reference(toys.Toy(late=late), batch, terms)
    calls = toys.Toy(late=late)
    Step(calls, Objective(terms), memory=Memory(tokens=64, graph_tokens=40), seed=SEED)(batch, step=STEP)
    for failing in range(1, calls.calls + 1):
        ranker = toys.Toy(late=late)
        ranker.fail_on = [failing]
        step = Step(ranker, Objective(terms), memory=Memory(tokens=64, graph_tokens=40), seed=SEED)
        assert abs(step(batch, step=STEP).loss - value) <= 1e-12 * abs(value)
        assert distance(ranker, expected) <= 1e-12
        assert step.memory == Memory(tokens=64, graph_tokens=40).halved()


def test_out_of_memory_to_the_end_is_a_typed_error():
    ranker = toys.Toy(late=False)
    ranker.fail_on = list(range(1, 1000))
    step = Step(ranker, Objective(terms_of("own")), memory=Memory(tokens=64), seed=SEED)
    with pytest.raises(ResourceError, match="out of memory"):
        step(toys.make_batch(np.random.default_rng(1)), step=STEP)


@pytest.mark.parametrize("packed", [False, True])
def test_micro_batches_cover_every_row_once_within_the_budget(packed):
    rng = np.random.default_rng(0)
    for budget in (1, 7, 50, 10**6):
        texts = toys.texts(rng, 23, 12)
        cuts = micro_batches(texts, "doc", budget=budget, packed=packed)
        assert sorted(torch.cat([c.rows for c in cuts]).tolist()) == list(range(23))
        for cut in cuts:
            lengths = texts.lengths[cut.rows]
            assert cut.cost == (int(lengths.sum()) if packed else int(lengths.max()) * len(cut.rows))
            assert cut.cost <= budget or len(cut.rows) == 1
        if packed:  # each was filled: the next text did not fit
            for one, after in pairwise(cuts):
                assert one.cost + int(texts.lengths[after.rows[0]]) > budget


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=8), budget=st.integers(1, 900))
def test_padded_cuts_cost_the_least(lengths, budget):
    texts = Texts(torch.zeros(sum(lengths), dtype=torch.int64), torch.tensor([0, *lengths]).cumsum(0))
    cuts = micro_batches(texts, "doc", budget=budget, packed=False)
    ordered = sorted(lengths, reverse=True)

    def cost(begin, end):
        size = ordered[begin] * (end - begin)
        return size + 64 if size <= budget or end - begin == 1 else float("inf")

    ways = []
    for inner in product([False, True], repeat=len(lengths) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(inner) if cut), len(lengths)]
        ways.append(sum(cost(a, b) for a, b in pairwise(edges)))
    assert sum(cut.cost + 64 for cut in cuts) == min(ways)


# --- two and four processes ----------------------------------------------------------------------

WORKER = """
import importlib.util, json, os, sys
import numpy as np, torch
spec = importlib.util.spec_from_file_location("proof", sys.argv[1]); proof = importlib.util.module_from_spec(spec)
spec.loader.exec_module(proof)
from rankwright.losses import KLDivergence, RankNet
from rankwright.training import Memory, Objective, Step, Term, distributed
distributed.start()
worst = 0.0
for late in (False, True):
    batch = proof.toys.make_batch(np.random.default_rng(1))
    mine = proof.toys.share(batch, distributed.rank(), distributed.world())
    for against in proof.POOLS:
        terms = proof.terms_of(against)
        full = proof.toys.share(batch, 0, 1)
        value, expected = proof.reference(proof.toys.Toy(late=late), full, terms)
        for memory in (Memory(tokens=1, graph_tokens=0, rows=1), Memory(tokens=30, graph_tokens=40, rows=3), Memory()):
            ranker = proof.toys.Toy(late=late)
            if against == "mixed" and distributed.rank() == 1 and memory.tokens == 30:
                ranker.fail_on = [2]
            result = Step(ranker, Objective(terms), memory=memory, seed=proof.SEED)(mine, step=proof.STEP)
            distributed.sum_gradients(ranker.parameters())
            worst = max(worst, proof.distance(ranker, expected), abs(result.loss - value) / abs(value))
pairs, terms = proof.toys.make_pairs(np.random.default_rng(2)), [Term(RankNet(), "own"), Term(KLDivergence(), "own")]
mine = proof.toys.share(pairs, distributed.rank(), distributed.world())
value, expected = proof.reference(proof.toys.CrossToy(), pairs, terms)
for memory in (Memory(tokens=1, graph_tokens=0, rows=1), Memory(tokens=30, graph_tokens=40, rows=3), Memory()):
    ranker = proof.toys.CrossToy()
    result = Step(ranker, Objective(terms), memory=memory, seed=proof.SEED)(mine, step=proof.STEP)
    distributed.sum_gradients(ranker.parameters())
    worst = max(worst, proof.distance(ranker, expected), abs(result.loss - value) / abs(value))
print(json.dumps(worst), flush=True)
distributed.finish()
os._exit(0)  # as the command line does: gloo's threads do not always survive an orderly exit
"""


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_several_processes_make_the_gradient_of_one(world: int, tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + world), "WORLD_SIZE": str(world)}
    import os

    processes = [
        subprocess.Popen(
            [sys.executable, str(script), __file__],
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * world
    for output in outputs:
        assert json.loads(output.strip().splitlines()[-1]) <= 1e-12


def test_one_process_share_is_the_batch_without_the_documents_of_no_list():
    batch = toys.make_batch(np.random.default_rng(1))
    whole = toys.share(batch, 0, 1)
    assert replace(whole, docs=whole.docs).query_ids == batch.query_ids
