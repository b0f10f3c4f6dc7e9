"""Budgets chosen from a measurement: they follow what a graph holds and what is free, are said, kept and resumed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright.errors import RecipeError, ResourceError
from rankwright.losses import InfoNCE
from rankwright.training import Objective, Term, Train, checkpoint, memory, train_stage

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
assert _spec
assert _spec.loader
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)
GIB = 1 << 30


def wide(batch_tokens: int):
    """A batch of long documents, and a function that holds 40 KiB a token."""
    draw = np.random.default_rng(0)
    batch = toys.make_batch(draw, queries=4, docs=9)
    texts = toys.texts(draw, 60, batch_tokens // 30)
    from dataclasses import replace

    return replace(batch, docs=texts), lambda some: torch.ones(len(some.values), 10 * 1024)


def plan(limit, *, monkeypatch=None, free=8 * GIB, tokens=3000):
    batch, represent = wide(tokens)
    if monkeypatch:
        monkeypatch.setattr(memory, "_free", lambda device: free)
    return memory.plan_memory(torch.nn.Linear(4, 4), batch, represent, device="cpu", limit=limit)


def test_bytes_a_token_are_measured():
    assert plan(4.0).bytes_per_token == pytest.approx(40 * 1024, rel=0.15)


def test_budgets_grow_with_what_is_free(monkeypatch):
    small, large = (plan("auto", monkeypatch=monkeypatch, free=free) for free in (GIB, 8 * GIB))
    assert small.memory.tokens <= large.memory.tokens == 4096
    assert small.memory.graph_tokens < large.memory.graph_tokens
    for made in (small, large):
        total = (made.memory.graph_tokens + 2 * made.memory.tokens) * made.bytes_per_token
        assert memory.used("cpu") - GIB < made.limit - total < memory.used("cpu") + GIB
        assert made.predicted <= made.limit
        assert "predicted peak" in str(made)


def test_a_text_longer_than_a_usual_micro_batch_travels_alone(monkeypatch):
    monkeypatch.setattr(memory, "_MICRO_TOKENS", {"cpu": 64})
    longest = int(wide(3000)[0].docs.lengths.max())
    assert plan("auto", monkeypatch=monkeypatch).memory.tokens == longest > 64


def test_what_cannot_fit_is_refused():
    with pytest.raises(ResourceError, match="do not hold a text of"):
        plan(0.001)
    for wrong in (0, -1.0, float("inf")):
        with pytest.raises(RecipeError, match="memory must be auto or a number"):
            Train(memory=wrong)
    with pytest.raises(RecipeError, match="memory measures a model that one process holds whole"):
        Train(memory="auto", parallel="fsdp")


def test_a_resumed_stage_keeps_the_budgets_it_began_with(tmp_path: Path, monkeypatch, capsys):
    def run(steps: int):
        return train_stage(
            toys.Toy(late=False), toys.Supply(), Objective([Term(InfoNCE(0.5))]),
            settings=Train(steps=steps, save_every=2, memory="auto", schedule="constant", warmup=0),
            folder=tmp_path, identity={},
        )  # fmt: skip

    first = run(4)
    said = capsys.readouterr().err
    assert "predicted peak" in said
    assert "peak after 3 steps" in said
    assert first.tokens == 4096
    monkeypatch.setattr(memory, "_free", lambda device: 1)
    again = run(8)
    assert (again.tokens, again.graph_tokens) == (first.tokens, first.graph_tokens)
    assert "predicted peak" not in capsys.readouterr().err
    found = checkpoint.newest(tmp_path / "checkpoints", identity={})
    assert found
    assert found[1].graph_tokens == first.graph_tokens
