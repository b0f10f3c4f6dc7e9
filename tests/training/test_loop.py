"""The loop: resume bit for bit after kills and signals, boundaries, early stopping, non-finite steps, drift."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rankwright import signals, storage
from rankwright.errors import DriftError, NonFiniteError, RecipeError, Stopped, UsageError
from rankwright.losses import InfoNCE
from rankwright.training import Cycle, Objective, Part, Term, Train, Validator, optim, train_stage

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
assert _spec
assert _spec.loader
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

IDENTITY = {"data": "abc", "threads": "1"}


def run(folder: Path, *, steps: int = 12, validator=None, ranker=None, identity=IDENTITY, supply=None, **settings):
    ranker = ranker or toys.Toy(late=False)
    options = {"steps": steps, "learning_rate": 0.05, "save_every": 3} | settings
    state = train_stage(
        ranker, supply or toys.Supply(), Objective([Term(InfoNCE(temperature=0.5))]), settings=Train(**options),
        folder=folder, identity=identity, seed=1, validator=validator,
    )  # fmt: skip
    return ranker, state


def digest(folder: Path, ranker) -> str:
    """Weights, optimizer and loss log (without the wall-clock column)."""
    sha = hashlib.sha256()
    for p in ranker.parameters():
        sha.update(p.detach().numpy().tobytes())
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    for name, tensor in sorted(load_file(newest / "optimizer.safetensors").items()):
        sha.update(name.encode() + tensor.numpy().tobytes())
    for record in storage.read_lines(folder / "log.jsonl"):
        sha.update(json.dumps({k: v for k, v in record.items() if k != "seconds"}).encode())
    return sha.hexdigest()


def test_training_lowers_the_loss_and_logs_every_step(tmp_path: Path):
    _, state = run(tmp_path, steps=40, save_every=100)
    log = storage.read_lines(tmp_path / "log.jsonl")
    assert [r["step"] for r in log] == list(range(1, 41))
    assert np.mean([r["loss"] for r in log[-8:]]) < np.mean([r["loss"] for r in log[:8]])
    assert state.step == 40
    assert all(r["masked"] >= 0 and r["tokens"] > 0 for r in log)


def test_resume_from_every_step_gives_the_same_bits(tmp_path: Path):
    ranker, _ = run(tmp_path / "whole")
    expected = digest(tmp_path / "whole", ranker)
    for stop in range(1, 11):
        folder = tmp_path / f"stop{stop}"

        class Interrupted(toys.Supply):
            limit = stop

            def iterate(self, start: int, stop: int):
                for k, batch in zip(range(start, stop), super().iterate(start, stop)):
                    if k == self.limit:
                        signals._requested.set()
                    yield batch

        try:
            with pytest.raises(Stopped):
                run(folder, supply=Interrupted())
        finally:
            signals._requested.clear()
        log = storage.read_lines(folder / "log.jsonl")
        assert len(log) == stop + 1  # the step in hand is finished and saved: nothing is lost
        ranker, state = run(folder)
        assert state.step == 12
        assert digest(folder, ranker) == expected


def test_a_chain_of_one_step_resumes_gives_the_same_bits(tmp_path: Path):
    ranker, _ = run(tmp_path / "whole", accumulate=2)
    expected = digest(tmp_path / "whole", ranker)
    try:
        for _ in range(11):
            signals._requested.set()
            with pytest.raises(Stopped):
                run(tmp_path / "chain", accumulate=2)
    finally:
        signals._requested.clear()
    ranker, _ = run(tmp_path / "chain", accumulate=2)
    assert digest(tmp_path / "chain", ranker) == expected


def test_a_finished_run_does_nothing_more(tmp_path: Path):
    ranker, _ = run(tmp_path)
    before = digest(tmp_path, ranker)

    class Forbidden(toys.Supply):
        def iterate(self, start: int, stop: int):
            assert start == stop
            return iter(())

    ranker, state = run(tmp_path, supply=Forbidden())
    assert state.step == 12
    assert digest(tmp_path, ranker) == before


def _attempt(folder: Path, delay: float) -> int:
    """Fork a child that trains; kill it after `delay` seconds. Its exit status, or -9."""
    child = os.fork()
    if child == 0:
        try:
            run(folder, steps=30, save_every=2)
            os._exit(0)
        except BaseException:
            os._exit(1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill_until(kills: int, folder: Path, expected: str) -> int:
    torch.set_num_threads(1)
    rng, done, finished = random.Random(0), 0, 0
    began = time.perf_counter()
    run(folder / "timing", steps=30, save_every=2)
    duration = time.perf_counter() - began
    while done < kills:
        attempt = folder / f"run{finished}"
        if _attempt(attempt, rng.uniform(0, 0.6 * duration)) == 0:
            ranker, _ = run(attempt, steps=30, save_every=2)
            assert digest(attempt, ranker) == expected
            finished += 1
        done += 1
    ranker, _ = run(folder / f"run{finished}", steps=30, save_every=2)
    assert digest(folder / f"run{finished}", ranker) == expected
    return finished


def test_twelve_kills_at_random_moments_end_with_the_same_bits(tmp_path: Path):
    ranker, _ = run(tmp_path / "whole", steps=30, save_every=2)
    _kill_until(12, tmp_path, digest(tmp_path / "whole", ranker))


@pytest.mark.soak
def test_five_hundred_kills_at_random_moments_end_with_the_same_bits(tmp_path: Path):
    ranker, _ = run(tmp_path / "whole", steps=30, save_every=2)
    assert _kill_until(500, tmp_path, digest(tmp_path / "whole", ranker)) > 50


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "flipped", "manifest", "folder"])
def test_resume_walks_back_to_the_newest_intact_checkpoint(tmp_path: Path, damage: str, capsys):
    ranker, _ = run(tmp_path)
    expected = digest(tmp_path, ranker)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    target = newest / ("manifest.json" if damage == "manifest" else "model.safetensors")
    content = bytearray(target.read_bytes())
    if damage == "absent":
        target.unlink()
    elif damage == "folder":
        target.unlink()
        target.mkdir()
    else:
        if damage == "flipped":
            content[-5] ^= 4
        target.write_bytes({"empty": b"", "cut": content[:-7]}.get(damage, content if damage != "manifest" else b"{}"))
    ranker, state = run(tmp_path)
    assert "skipped checkpoint step-00000012" in capsys.readouterr().err
    assert state.step == 12
    assert digest(tmp_path, ranker) == expected


def test_damaged_log_lines_are_dropped_and_counted_on_resume(tmp_path: Path, capsys):
    ranker, _ = run(tmp_path)
    expected = digest(tmp_path, ranker)
    log = tmp_path / "log.jsonl"
    whole = log.read_text().splitlines(keepends=True)
    log.write_text("".join([whole[0], "{half a li\n", *whole[1:4], '{"loss": 1.0}\n', *whole[4:]]))
    ranker, _ = run(tmp_path)
    assert "log.jsonl: 2 damaged lines were dropped" in capsys.readouterr().err
    assert log.read_text().splitlines(keepends=True) == whole
    assert digest(tmp_path, ranker) == expected


def test_drift_is_refused_by_name_and_allowed_on_request(tmp_path: Path, capsys):
    run(tmp_path)
    with pytest.raises(DriftError, match="threads was 1, is 2") as caught:
        run(tmp_path, identity=IDENTITY | {"threads": "2"})
    assert caught.value.code == 2
    train_stage(
        toys.Toy(late=False), toys.Supply(), Objective([Term(InfoNCE())]), settings=Train(steps=12), folder=tmp_path,
        identity=IDENTITY | {"threads": "2"}, allow_drift=True,
    )  # fmt: skip
    assert "in spite of drift: threads was 1, is 2" in capsys.readouterr().err


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path):
    run(tmp_path, keep_checkpoints=2)
    assert [p.name for p in sorted((tmp_path / "checkpoints").glob("step-*"))] == ["step-00000009", "step-00000012"]


class Poisoned(toys.Toy):
    """Returns NaN representations in the given training calls."""

    def __init__(self, calls: set[int]) -> None:
        super().__init__(late=False)
        self.poison, self.seen = calls, 0

    def represent(self, texts, side):
        reps = super().represent(texts, side)
        if side == "doc":
            self.seen += 1
            if self.seen in self.poison:
                return type(reps)(reps.values * float("nan"), reps.mask)
        return reps


def test_a_non_finite_step_touches_neither_weights_nor_moments(tmp_path: Path):
    clean, _ = run(tmp_path / "clean", steps=1)
    skipping, state = run(tmp_path / "skip", steps=2, ranker=Poisoned({2}))
    assert state.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(clean.parameters(), skipping.parameters()))
    assert storage.read_lines(tmp_path / "skip" / "incidents.jsonl")[0]["loss"] == "nan"
    assert np.isnan(storage.read_lines(tmp_path / "skip" / "log.jsonl")[1]["loss"])


def test_three_non_finite_steps_in_a_row_end_the_run(tmp_path: Path):
    with pytest.raises(NonFiniteError, match="3 steps in a row") as caught:
        run(tmp_path, ranker=Poisoned({4, 5, 6}))
    assert caught.value.code == 7


def test_the_best_validated_weights_are_kept_and_patience_ends_the_run(tmp_path: Path):
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    seen: list[torch.Tensor] = []
    ranker = toys.Toy(late=False)

    def measure():
        assert not ranker.training
        seen.append(ranker.mix.weight.detach().clone())
        return {"nDCG@10": next(values)}

    ranker, state = run(tmp_path, ranker=ranker, validator=Validator(measure, "nDCG@10", every=2, patience=2))
    assert (state.step, state.best_step, state.best) == (8, 4, 0.5)
    assert torch.equal(ranker.mix.weight, seen[1])
    assert [r["nDCG@10"] for r in storage.read_lines(tmp_path / "validation.jsonl")] == [0.1, 0.5, 0.4, 0.3]
    again, state = run(tmp_path, validator=Validator(measure, "nDCG@10", every=2, patience=2))
    assert torch.equal(again.mix.weight, seen[1])  # a finished run stays finished


def test_half_precision_is_refused_where_it_is_emulated(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("rankwright.models.precision.native_bf16", lambda kind: False)
    for name in ("bf16", "fp16"):
        with pytest.raises(UsageError, match=f"precision: {name} on this cpu"):
            run(tmp_path, precision=name)


def test_bf16_trains_close_to_float32_where_it_is_native(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("rankwright.models.precision.native_bf16", lambda kind: True)
    losses = {}
    for name in ("float32", "auto", "bf16"):
        run(tmp_path / name, precision=name, ranker=toys.Toy(late=False, dropout=0.0).float())
        losses[name] = [record["loss"] for record in storage.read_lines(tmp_path / name / "log.jsonl")]
    assert losses["auto"] == losses["bf16"] != losses["float32"]
    assert np.allclose(losses["bf16"], losses["float32"], rtol=0.05)


def test_fp16_halves_its_scale_on_overflow_and_doubles_it_after_2000_good_steps(tmp_path: Path):
    from rankwright.training.checkpoint import State
    from rankwright.training.loop import _Loop

    ranker = toys.Toy(late=False)
    loop = _Loop(
        ranker,
        Cycle([Part("", toys.Supply(), Objective([Term(InfoNCE())]))]),
        Train(),
        tmp_path,
        {},
        "cpu",
        None,
        False,
    )
    loop.state = State(scale=8.0)
    loop._scaled(finite=False)
    assert loop.state.scale == 4.0
    for _ in range(2000):
        loop._scaled(finite=True)
    assert loop.state.scale == 8.0
    for _ in range(3):
        loop._scaled(finite=False)
    with pytest.raises(NonFiniteError, match="any loss scale"):
        loop._scaled(finite=False)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_on_cuda(tmp_path: Path, precision: str):
    ranker = toys.Toy(late=False).float().cuda()
    train_stage(
        ranker, toys.Supply(), Objective([Term(InfoNCE(temperature=0.5))]),
        settings=Train(steps=8, precision=precision), folder=tmp_path, identity=IDENTITY, device="cuda",
    )  # fmt: skip
    assert all(np.isfinite(r["loss"]) for r in storage.read_lines(tmp_path / "log.jsonl"))


def test_gradient_accumulation_uses_consecutive_batches(tmp_path: Path):
    seen = []

    class Counting(toys.Supply):
        def iterate(self, start: int, stop: int):
            for k, batch in zip(range(start, stop), super().iterate(start, stop)):
                seen.append(k)
                yield batch

    _, state = run(tmp_path, supply=Counting(), steps=None, epochs=1, accumulate=3)
    assert state.step == 3
    assert seen == list(range(9))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
    ],
)
def test_learning_rate(schedule, expected):
    rates = [optim.learning_rate(k, peak=1.0, total=6, warmup=2, schedule=schedule) for k in range(6)]
    np.testing.assert_allclose(rates, expected)


def test_biases_and_norms_are_not_decayed():
    ranker = toys.Toy(late=False)
    groups = optim.adamw(ranker, weight_decay=0.3, betas=(0.9, 0.99), eps=1e-8).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.3), (3, 0.0)]


def test_settings_are_checked_on_construction():
    assert Train().epochs == 1.0
    for wrong in ({"epochs": 1.0, "steps": 5}, {"learning_rate": 0.0}, {"warmup": -1.0}, {"accumulate": 0}):
        with pytest.raises(RecipeError):
            Train(**wrong)
    assert Train(epochs=2.5, accumulate=2).total_steps(lambda epoch: 10 - epoch) == (10 + 9 + 4) // 2
    assert Train(warmup=0.1).warmup_steps(25) == 2
    assert Train(warmup=7).warmup_steps(25) == 7
