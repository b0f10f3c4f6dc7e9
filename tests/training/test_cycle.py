"""Cycles: which step is whose, totals, the log, and resuming inside a cycle bit for bit."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from rankwright import signals, storage
from rankwright.errors import Stopped
from rankwright.losses import InfoNCE
from rankwright.training import Cycle, Objective, Part, Term, Train, train_cycle

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
assert _spec
assert _spec.loader
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)


class Own(toys.Supply):
    """Batches of one part, which notes those it gave."""

    def __init__(self, seed: int) -> None:
        self.seed, self.given = seed, []

    def iterate(self, start: int, stop: int):
        for k in range(start, stop):
            self.given.append(k)
            yield toys.make_batch(np.random.default_rng([self.seed, k]), queries=4, docs=9)


def parts(**changes) -> list[Part]:
    made = []
    for number, (name, repeats, accumulate) in enumerate([("inbatch", 3, 1), ("poshard", 1, 2), ("hard", 2, 1)]):
        term = Term(InfoNCE(temperature=0.5 + number), against=("batch", "own", "others")[number])
        made.append(Part(name, Own(number), Objective([term]), seed=number, repeats=repeats, accumulate=accumulate))
    return made


def run(folder: Path, some: list[Part], **settings):
    ranker = toys.Toy(late=False)
    options = {"steps": 14, "learning_rate": 0.05, "save_every": 100} | settings
    train_cycle(ranker, some, settings=Train(**options), folder=folder, identity={"data": "abc"})
    sha = hashlib.sha256()
    for p in ranker.parameters():
        sha.update(p.detach().numpy().tobytes())
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    for name, tensor in sorted(load_file(newest / "optimizer.safetensors").items()):
        sha.update(name.encode() + tensor.numpy().tobytes())
    for record in storage.read_lines(folder / "log.jsonl"):
        sha.update(json.dumps({k: v for k, v in record.items() if k != "seconds"}).encode())
    return sha.hexdigest()


def test_every_step_is_one_parts_and_counts_up():
    cycle = Cycle(parts())
    expected, counts = [], [0, 0, 0]
    for _ in range(5):
        for part, repeats in enumerate((3, 1, 2)):
            for _ in range(repeats):
                expected.append((part, counts[part]))
                counts[part] += 1
    assert [cycle.at(step) for step in range(30)] == expected
    for step in range(31):
        assert [cycle.before(n, step) for n in range(3)] == [sum(p == n for p, _ in expected[:step]) for n in range(3)]


def test_steps_are_those_of_all_parts_and_epochs_the_firsts_in_whole_cycles():
    cycle = Cycle(parts())
    assert cycle.total(Train(steps=14)) == 14
    assert cycle.total(Train(epochs=1)) == 4 * 6  # ten batches of the first part: four cycles of three
    assert Cycle(parts()[:1]).total(Train(epochs=1)) == 10


def test_the_log_names_the_part_and_each_part_gets_its_own_batches_in_order(tmp_path: Path):
    some = parts()
    run(tmp_path, some)
    log = storage.read_lines(tmp_path / "log.jsonl")
    names = ["inbatch"] * 3 + ["poshard"] + ["hard"] * 2
    assert [record["stage"] for record in log] == (names * 3)[:14]
    assert [part.batches.given for part in some] == [list(range(8)), list(range(4)), list(range(4))]
    assert all(record["queries"] == (8 if record["stage"] == "poshard" else 4) for record in log)


def test_resuming_anywhere_in_a_cycle_gives_the_same_bits(tmp_path: Path):
    expected = run(tmp_path / "whole", parts())
    try:
        for step in range(13):
            signals._requested.set()
            with pytest.raises(Stopped):
                run(tmp_path / "chain", parts())
            assert len(storage.read_lines(tmp_path / "chain" / "log.jsonl")) == step + 1
    finally:
        signals._requested.clear()
    assert run(tmp_path / "chain", parts()) == expected
