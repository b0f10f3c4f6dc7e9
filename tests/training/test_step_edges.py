"""Corners of the step: undefined losses, single rows, ranks with nothing to do, batchwise losses, memory that ends."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from rankwright.errors import RecipeError
from rankwright.losses import InfoNCE, Loss
from rankwright.training import Memory, Objective, Step, Term, distributed
from rankwright.training.check import GradientCheck
from rankwright.types import Reps

_spec = importlib.util.spec_from_file_location("training_proof", Path(__file__).with_name("test_step.py"))
assert _spec
assert _spec.loader
proof = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(proof)
toys = proof.toys


@dataclass(frozen=True)
class Spread(Loss):
    """A loss of the whole batch: the variance of all scores that count."""

    per_query: ClassVar[bool] = False

    def __call__(self, scores, targets, mask):
        return scores[mask].var()


def batch():
    return toys.make_batch(np.random.default_rng(1))


def first_rows(whole, queries: int, docs: int):
    """The first queries and documents alone, one document a list."""
    rows, columns = torch.arange(queries), torch.arange(docs)
    none = torch.zeros(0, dtype=torch.int64)
    return replace(
        whole, queries=whole.queries.take(rows), docs=whole.docs.take(columns), lists=rows[:, None] % docs,
        targets=torch.ones(queries, 1), mask=torch.ones(queries, 1, dtype=torch.bool),
        known_queries=none, known_docs=none, known_targets=torch.zeros(0),
        query_ids=whole.query_ids[:queries], doc_ids=whole.doc_ids[:docs], drawn=(),
    )  # fmt: skip


@pytest.mark.parametrize("positives", ["each", "all", "any"])
@pytest.mark.parametrize("against", ["own", "others", "batch"])
def test_a_batch_without_a_relevant_document_has_loss_and_gradient_zero(against: str, positives: str):
    whole = batch()
    nothing = replace(
        whole, targets=torch.zeros_like(whole.targets), known_targets=torch.zeros_like(whole.known_targets)
    )
    ranker = toys.Toy(late=False)
    result = Step(ranker, Objective([Term(InfoNCE(positives=positives), against)]))(nothing, step=0)  # type: ignore[arg-type]
    assert result.loss == 0.0
    assert all(p.grad is None or not p.grad.any() for p in ranker.parameters())


@pytest.mark.parametrize("late", [False, True], ids=["dense", "late"])
@pytest.mark.parametrize(("queries", "docs"), [(1, 1), (1, 4), (3, 1)])
def test_batches_of_a_row_or_a_column(late: bool, queries: int, docs: int):
    small, terms = first_rows(batch(), queries, docs), proof.terms_of("batch")
    value, expected = proof.reference(toys.Toy(late=late), small, terms)
    ranker = toys.Toy(late=late)
    result = Step(ranker, Objective(terms), memory=Memory(tokens=4, graph_tokens=0), seed=proof.SEED)(
        small, step=proof.STEP
    )
    assert result.loss == pytest.approx(value, rel=1e-12, abs=1e-15)
    worst = max(float((p.grad - expected[n]).abs().max()) for n, p in ranker.named_parameters())
    assert worst <= 1e-12


def test_scores_that_are_minus_infinity_where_masked_do_not_spoil_the_rest():
    class Hidden(toys.Toy):
        def compare(self, queries: Reps, docs: Reps) -> torch.Tensor:
            scores = super().compare(queries, docs)
            return scores.index_fill(1, torch.tensor([14]), float("-inf"))

    whole = batch()
    lists = torch.where(whole.lists == 14, whole.lists.new_zeros(()), whole.lists)
    terms = [Term(InfoNCE(), "own")]
    ranker = Hidden(late=False)
    result = Step(ranker, Objective(terms))(replace(whole, lists=lists), step=0)
    assert np.isfinite(result.loss)
    assert all(torch.isfinite(p.grad).all() for p in ranker.parameters())


def test_a_known_pair_given_twice_counts_once():
    whole, terms = batch(), proof.terms_of("batch")
    twice = replace(
        whole,
        known_queries=whole.known_queries.repeat(2),
        known_docs=whole.known_docs.repeat(2),
        known_targets=whole.known_targets.repeat(2),
    )
    one, two = (Step(toys.Toy(late=False), Objective(terms))(b, step=0) for b in (whole, twice))
    assert one == two


@pytest.mark.parametrize("rows", [1, None])
def test_a_loss_of_the_whole_batch_sees_all_rows_at_once(rows: int | None):
    ranker, whole = toys.Toy(late=False), batch()
    queries = whole.queries.with_keys(proof.dropout_keys(whole.query_ids, "query", seed=0, step=0))
    docs = whole.docs.with_keys(proof.dropout_keys(whole.doc_ids, "doc", seed=0, step=0))
    scores = ranker.compare(ranker.represent(queries, "query"), ranker.represent(docs, "doc"))
    value = scores.gather(1, whole.lists)[whole.mask].var()
    value.backward()
    expected = {n: p.grad.clone() for n, p in ranker.named_parameters()}
    ranker.zero_grad()
    memory = Memory(tokens=30, graph_tokens=0, rows=rows)
    result = Step(ranker, Objective([Term(Spread(), "own")]), memory=memory)(whole, step=0)
    assert result.loss == pytest.approx(float(value.detach()), rel=1e-12)
    assert proof.distance(ranker, expected) <= 1e-12


def test_a_loss_of_the_whole_batch_is_refused_over_several_processes(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(RecipeError, match="Spread needs the whole batch in one process, there are 2"):
        Step(toys.Toy(late=False), Objective([Term(Spread(), "own")]))


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("where", ["represent", "compare"])
def test_every_way_of_running_out_of_memory_is_survived(error: Exception, where: str):
    """With gradients of an earlier batch in place, which must survive too."""

    class Full(toys.Toy):
        armed = False

        def _fail(self, name: str) -> None:
            if self.armed and name == where:
                self.armed = False
                raise error

        def represent(self, texts, side):
            self._fail("represent")
            return super().represent(texts, side)

        def compare(self, queries, docs):
            self._fail("compare")
            return super().compare(queries, docs)

    whole, terms = batch(), proof.terms_of("mixed")
    _, expected = proof.reference(toys.Toy(late=False), whole, terms)
    ranker = Full(late=False)
    step = Step(ranker, Objective(terms), memory=Memory(tokens=64, graph_tokens=40), seed=proof.SEED)
    step(whole, step=proof.STEP)
    ranker.armed = True
    step(whole, step=proof.STEP)
    assert step.memory.tokens == 32
    assert proof.distance(ranker, {n: 2 * g for n, g in expected.items()}) <= 1e-12


def test_memory_of_the_scores_shrinks_too():
    assert Memory(tokens=64, rows=9, scores=50).halved() == Memory(tokens=32, graph_tokens=0, rows=4, scores=25)


def test_other_runtime_errors_are_not_taken_for_memory():
    class Broken(toys.Toy):
        def represent(self, texts, side):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Step(Broken(late=False), Objective(proof.terms_of("own")))(batch(), step=0)


def test_graphs_alive_at_once_do_not_grow_with_the_batch():
    class Counting(toys.Toy):
        alive = most = 0

        def represent(self, texts, side):
            reps = super().represent(texts, side)
            if torch.is_grad_enabled():
                type(self).alive += 1
                type(self).most = max(self.alive, self.most)
                reps.values.grad_fn.register_hook(lambda *_: setattr(Counting, "alive", Counting.alive - 1))
            return reps

    for queries, docs in ((7, 15), (28, 60)):
        Counting.alive = Counting.most = 0
        whole = toys.make_batch(np.random.default_rng(1), queries=queries, docs=docs)
        Step(Counting(late=False), Objective(proof.terms_of("batch")), memory=Memory(tokens=12, graph_tokens=0))(
            whole, step=0
        )
        assert (Counting.most, Counting.alive) == (1, 0)


def test_a_check_with_a_loss_that_is_no_number_fails():
    assert GradientCheck("way", 0.0, 0.0, 1e-12).passed
    assert not GradientCheck("way", 0.0, float("nan"), 1e-12).passed
    assert not GradientCheck("way", float("nan"), 0.0, 1e-12).passed


# --- ranks with nothing to do --------------------------------------------------------------------

WORKER = """
import importlib.util, json, os, sys
import numpy as np, torch
spec = importlib.util.spec_from_file_location("edges", sys.argv[1]); edges = importlib.util.module_from_spec(spec)
sys.modules["edges"] = edges
spec.loader.exec_module(edges)
proof, toys = edges.proof, edges.toys
from dataclasses import replace
from rankwright.training import Memory, Objective, Step, distributed
distributed.start()
rank, worst = distributed.rank(), 0.0
def share(batch, owner):
    none = torch.zeros(0, dtype=torch.int64)
    if rank == owner:
        return batch
    return replace(batch, queries=batch.queries.take(none), docs=batch.docs.take(none), lists=batch.lists[:0],
        targets=batch.targets[:0], mask=batch.mask[:0], known_queries=none, known_docs=none,
        known_targets=torch.zeros(0), query_ids=())
for late in (False, True):
    batch = edges.batch()
    for owner in (0, 1):
        for against in ("own", "batch", "mixed"):
            terms = proof.terms_of(against)
            value, expected = proof.reference(toys.Toy(late=late), batch, terms)
            ranker = toys.Toy(late=late)
            result = Step(ranker, Objective(terms), memory=Memory(tokens=30, graph_tokens=40), seed=proof.SEED)(
                share(batch, owner), step=proof.STEP)
            distributed.sum_gradients(ranker.parameters())
            worst = max(worst, proof.distance(ranker, expected), abs(result.loss - value) / abs(value))
class Poison(toys.Toy):
    def compare(self, queries, docs):
        scores = super().compare(queries, docs)
        return scores * float("nan") if rank == 1 else scores
result = Step(Poison(late=False), Objective(proof.terms_of("batch")))(toys.share(edges.batch(), rank, 2), step=0)
print(json.dumps({"worst": worst, "poisoned": repr(result.loss)}), flush=True)
distributed.finish()
os._exit(0)  # as the command line does: gloo's threads do not always survive an orderly exit
"""


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_a_rank_without_queries_and_a_loss_that_is_no_number_on_one_rank(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), __file__],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for output in outputs:
        told = json.loads(output.strip().splitlines()[-1])
        assert told["worst"] <= 1e-12
        assert told["poisoned"] == "nan"
