"""The loop under faults: kills between two writes, signals inside a validation, damaged files, full disks."""

from __future__ import annotations

import importlib.util
import math
import shutil
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import signals, storage
from rankwright.errors import ArtefactError, DataError, RecipeError, ResourceError, Stopped
from rankwright.training import Cycle, Part, Train, Validator, checkpoint, optim
from rankwright.training import loop as loop_module
from rankwright.training.checkpoint import State
from rankwright.training.step import StepResult

_spec = importlib.util.spec_from_file_location("training_loop", Path(__file__).with_name("test_loop.py"))
assert _spec
assert _spec.loader
base = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(base)
toys, run, digest = base.toys, base.run, base.digest
Supply = toys.Supply

VALUES = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.3, 10: 0.2, 12: 0.1}


@pytest.fixture(autouse=True)
def _no_signal_left():
    yield
    signals._requested.clear()


class Killed(BaseException):
    """Stands for kill -9: nothing that the loop does may catch it."""


def measuring(ranker, seen: list[float] | None = None) -> Validator:
    """A value that depends on the weights alone, so that a repeated validation repeats its value."""

    def measure():
        value = float(ranker.mix.weight.detach().sum())
        if seen is not None:
            seen.append(value)
        return {"x": value}

    return Validator(measure, "x", every=2)


@pytest.mark.parametrize("after", ["best", "checkpoint"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_kill_right_after_a_write_changes_nothing(tmp_path: Path, monkeypatch, after: str, call: int):
    ranker = toys.Toy(late=False)
    _, expected = run(tmp_path / "whole", ranker=ranker, validator=measuring(ranker))
    bits = digest(tmp_path / "whole", ranker)
    save, calls = checkpoint.save, []

    def killing(folder, **options):
        save(folder, **options)
        calls.append(options.get("best", False))
        if calls.count(after == "best") == call:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", killing)
    victim = toys.Toy(late=False)
    with suppress(Killed):
        run(tmp_path / "cut", ranker=victim, validator=measuring(victim))
    monkeypatch.undo()
    again = toys.Toy(late=False)
    _, state = run(tmp_path / "cut", ranker=again, validator=measuring(again))
    assert state == expected
    assert digest(tmp_path / "cut", again) == bits
    logs = [storage.read_lines(tmp_path / name / "validation.jsonl") for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def scripted(ranker, step_of) -> Validator:
    return Validator(lambda: {"x": VALUES[step_of()]}, "x", every=2, patience=2)


@pytest.mark.parametrize("stop", range(1, 8))
def test_patience_counts_over_interruptions(tmp_path: Path, stop: int):
    class Interrupted(Supply):
        def iterate(self, start: int, stop_: int):
            for k, batch in zip(range(start, stop_), super().iterate(start, stop_)):
                if k == stop:
                    signals._requested.set()
                yield batch

    def step() -> int:
        return storage.read_lines(tmp_path / "log.jsonl")[-1]["step"]

    try:
        run(tmp_path, supply=Interrupted(), validator=scripted(None, step))
    except Stopped:
        pass
    finally:
        signals._requested.clear()
    _, state = run(tmp_path, validator=scripted(None, step))
    assert (state.step, state.best_step, state.best, state.stale) == (8, 4, 0.5, 2)
    assert [r["step"] for r in storage.read_lines(tmp_path / "validation.jsonl")] == [2, 4, 6, 8]
    assert [r["step"] for r in storage.read_lines(tmp_path / "log.jsonl")] == list(range(1, 9))


@pytest.mark.parametrize("at", [4, 12])
def test_a_signal_inside_a_validation_loses_no_step_and_no_validation(tmp_path: Path, at: int):
    whole = toys.Toy(late=False)
    _, expected = run(tmp_path / "whole", ranker=whole, validator=measuring(whole), save_every=100)
    cut, seen = toys.Toy(late=False), []
    plain = measuring(cut, seen)

    def measure():
        if len(seen) == at // 2 - 1:
            signals._requested.set()
        signals.check()  # as encoding a corpus does
        return plain.measure()

    try:
        with pytest.raises(Stopped):
            run(tmp_path / "cut", ranker=cut, validator=Validator(measure, "x", every=2), save_every=100)
    finally:
        signals._requested.clear()
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").glob("step-*")] == [f"step-{at:08d}"]
    again = toys.Toy(late=False)
    _, state = run(tmp_path / "cut", ranker=again, validator=measuring(again), save_every=100)
    assert state == expected
    assert digest(tmp_path / "cut", again) == digest(tmp_path / "whole", whole)
    logs = [storage.read_lines(tmp_path / name / "validation.jsonl") for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_the_last_step_is_validated_once(tmp_path: Path):
    ranker, seen = toys.Toy(late=False), []
    run(tmp_path, ranker=ranker, validator=measuring(ranker, seen))
    run(tmp_path, validator=measuring(toys.Toy(late=False), seen))
    assert len(seen) == 6


def test_a_validation_that_is_no_number_is_never_the_best(tmp_path: Path):
    values = iter([math.nan, 0.2, math.nan, 0.1, 0.3, 0.1])
    _, state = run(tmp_path, validator=Validator(lambda: {"x": next(values)}, "x", every=2))
    assert (state.best, state.best_step) == (0.3, 10)


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_never_displaces_an_intact_one(tmp_path: Path, keep: int):
    run(tmp_path, keep_checkpoints=2)
    (tmp_path / "checkpoints" / "step-00000012" / "model.safetensors").write_bytes(b"")

    class Stopping(Supply):
        def iterate(self, start: int, stop: int):
            signals._requested.set()
            yield from super().iterate(start, stop)

    try:
        with pytest.raises(Stopped):
            run(tmp_path, supply=Stopping(), keep_checkpoints=keep)
    finally:
        signals._requested.clear()
    found = checkpoint.newest(tmp_path / "checkpoints", identity=base.IDENTITY)
    assert found is not None
    assert found[1].step == 10
    names = sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-00000009", "step-00000010"][-keep:]


def test_a_checkpoint_that_lost_its_manifest_is_replaced(tmp_path: Path):
    ranker, _ = run(tmp_path)
    expected = digest(tmp_path, ranker)
    (tmp_path / "checkpoints" / "step-00000012" / "manifest.json").unlink()
    ranker, state = run(tmp_path)
    assert state.step == 12
    assert digest(tmp_path, ranker) == expected


def test_damaged_best_weights_are_a_typed_error(tmp_path: Path):
    values = iter([0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    validator = Validator(lambda: {"x": next(values)}, "x", every=2)
    run(tmp_path, validator=validator)
    weights = tmp_path / "best" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-9])
    with pytest.raises(ArtefactError, match="the best weights are damaged"):
        run(tmp_path, validator=validator)
    shutil.rmtree(tmp_path / "best")
    with pytest.raises(ArtefactError, match="the best weights are damaged"):
        run(tmp_path, validator=validator)


def test_best_weights_of_another_step_are_a_typed_error(tmp_path: Path):
    ranker = toys.Toy(late=False)
    optimizer = optim.adamw(ranker, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8)
    checkpoint.save(tmp_path / "best", model=ranker, optimizer=optimizer, state=State(step=9), identity={}, best=True)
    with pytest.raises(ArtefactError, match="weights of step 9, the best were those of 3"):
        checkpoint.load_best(tmp_path / "best", model=ranker, step=3)


def test_a_checkpoint_of_another_version_is_a_typed_error(tmp_path: Path):
    body = asdict(State(step=3)) | {"invented": 1}
    with storage.publish(tmp_path / "step-00000003", checkpoint.KIND, meta={"state": body, "identity": {}}) as draft:
        storage.write_bytes(draft.file("x"), b"x")
    with pytest.raises(ArtefactError, match="another version"):
        checkpoint.newest(tmp_path, identity={})


def test_a_full_disk_is_a_typed_error_and_the_run_goes_on_later(tmp_path: Path, monkeypatch):
    ranker, _ = run(tmp_path / "whole")
    write, calls = storage.write_tensors, []

    def full(path, tensors):
        calls.append(path)
        if len(calls) == 4:  # the optimizer of the second checkpoint
            raise OSError(28, "No space left on device", str(path))
        return write(path, tensors)

    monkeypatch.setattr(storage, "write_tensors", full)
    with pytest.raises(ResourceError):
        run(tmp_path / "full")
    monkeypatch.undo()
    left = [p.name for p in (tmp_path / "full" / "checkpoints").iterdir() if "step" in p.name and "lock" not in p.name]
    assert left == ["step-00000003"]
    again, _ = run(tmp_path / "full")
    assert digest(tmp_path / "full", again) == digest(tmp_path / "whole", ranker)


@pytest.mark.parametrize("name", [f.name for f in fields(State)])
def test_every_field_of_the_state_comes_back(tmp_path: Path, name: str):
    odd = replace(State(step=7), **{name: 3})
    ranker = toys.Toy(late=False)
    optimizer = optim.adamw(ranker, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8)
    checkpoint.save(tmp_path, model=ranker, optimizer=optimizer, state=odd, identity={})
    found = checkpoint.newest(tmp_path, identity={})
    assert found is not None
    assert found[1] == odd


def test_memory_that_shrank_and_a_streak_of_skipped_steps_outlive_an_interruption(tmp_path: Path):
    class Full(toys.Toy):
        def __init__(self) -> None:
            super().__init__(late=False)
            self.fail_on = [3]

    _, state = run(tmp_path, ranker=Full(), steps=2, micro_batch_tokens=64)
    assert (state.tokens, state.graph_tokens, state.scores) == (32, 0, 2 << 20)
    loop = loop_module._Loop(
        toys.Toy(late=False), Cycle([Part("", toys.Supply(), base.Objective([base.Term(base.InfoNCE())]))]), Train(),
        tmp_path, base.IDENTITY, "cpu", None, False,
    )  # fmt: skip
    loop._resume()
    assert asdict(loop.memory) == {"tokens": 32, "graph_tokens": 0, "rows": None, "scores": 2 << 20}
    with pytest.raises(Stopped):
        run(tmp_path / "streak", ranker=base.Poisoned({1, 2}), steps=100, supply=Ending(2))
    signals._requested.clear()
    with pytest.raises(base.NonFiniteError, match="3 steps in a row"):
        run(tmp_path / "streak", ranker=base.Poisoned({1}), steps=100)


class Ending(Supply):
    """Asks the run to stop with batch `n`."""

    def __init__(self, n: int) -> None:
        self.n = n

    def iterate(self, start: int, stop: int):
        for k, batch in zip(range(start, stop), super().iterate(start, stop)):
            if k + 1 == self.n:
                signals._requested.set()
            yield batch


# --- what may go wrong around it -----------------------------------------------------------------


def test_a_signal_to_another_process_stops_this_one_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(loop_module.distributed, "any_rank", lambda flag: True)
    monkeypatch.setattr(loop_module, "Step", Calm)
    with pytest.raises(Stopped, match="another process"):
        run(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000001"]


class Calm(loop_module.Step):
    """A step that never runs out of memory, whatever `any_rank` says."""

    def _attempt(self, batch, step, weight, last):
        return StepResult(1.0, 1, 1, 1, 0)


def test_what_goes_wrong_in_the_supply_comes_out_and_the_run_goes_on_later(tmp_path: Path):
    class Broken(Supply):
        def iterate(self, start: int, stop: int):
            for k, batch in zip(range(start, stop), super().iterate(start, stop)):
                if k == 7:
                    raise DataError("line 7 is torn", where="x.tsv:7")
                yield batch

    ranker, _ = run(tmp_path / "whole")
    with pytest.raises(DataError, match="line 7"):
        run(tmp_path / "cut", supply=Broken())
    again, _ = run(tmp_path / "cut")
    assert digest(tmp_path / "cut", again) == digest(tmp_path / "whole", ranker)


@pytest.mark.parametrize("settings", [{"steps": 5}, {"steps": None, "epochs": 1.0}])
def test_an_epoch_without_batches_is_a_typed_error(tmp_path: Path, settings: dict):
    class Empty(Supply):
        def steps_per_epoch(self, epoch: int) -> int:
            return 0

    with pytest.raises(DataError, match="an epoch has no batch"):
        run(tmp_path, supply=Empty(), **settings)


def test_a_model_without_trainable_parameters_is_a_typed_error(tmp_path: Path):
    with pytest.raises(RecipeError, match="nothing to train"):
        run(tmp_path, ranker=toys.Toy(late=False).requires_grad_(False))


def test_trackers_are_closed_when_the_run_is_stopped(tmp_path: Path, monkeypatch):
    closed = []

    class Remembering:
        def log(self, step, values): ...

        def close(self):
            closed.append(True)

    monkeypatch.setattr(loop_module.trackers, "start", lambda names, folder: [Remembering()])
    with pytest.raises(Stopped):
        run(tmp_path, supply=Ending(3))
    assert closed == [True]


def test_drift_that_was_allowed_is_recorded(tmp_path: Path):
    run(tmp_path, steps=3)
    base.train_stage(
        toys.Toy(late=False), Supply(), base.Objective([base.Term(base.InfoNCE())]), settings=Train(steps=5),
        folder=tmp_path, identity=base.IDENTITY | {"threads": "2"}, allow_drift=True,
    )  # fmt: skip
    records = storage.read_lines(tmp_path / "incidents.jsonl")
    assert records == [{"step": 3, "drift": ["threads was 1, is 2"], "action": "resumed on request"}]


def test_the_optimizers_state_comes_back_to_where_its_kernel_reads_it():
    def stepped(count: int, state=None):
        ranker = toys.Toy(late=False)
        optimizer = optim.adamw(ranker, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8)
        optim.set_learning_rate(optimizer, 0.1)
        if state is not None:
            ranker.load_state_dict(state[0])
            optim.load_state_tensors(ranker, optimizer, state[1])
        for _ in range(count):
            for p in ranker.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        return ranker.state_dict(), optim.state_tensors(ranker, optimizer)

    whole, halves = stepped(4), stepped(2, stepped(2))
    assert all(torch.equal(whole[0][n], halves[0][n]) for n in whole[0])
    assert all(torch.equal(whole[1][n], halves[1][n]) for n in whole[1])


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_reported_and_not_spread(bad: float):
    ranker = toys.Toy(late=False)
    for p in ranker.parameters():
        p.grad = torch.ones_like(p)
    ranker.mix.bias.grad[0] = bad
    assert not math.isfinite(optim.clip(ranker, 1.0))
    assert torch.equal(ranker.mix.weight.grad, torch.ones_like(ranker.mix.weight))
    ranker.zero_grad(set_to_none=True)
    assert optim.clip(ranker, 1.0) == 0.0


def test_settings_that_no_arithmetic_survives_are_refused():
    for wrong in (
        {"epochs": math.inf}, {"learning_rate": math.nan}, {"warmup": math.nan}, {"warmup": math.inf},
        {"betas": (0.9, 1.0)}, {"weight_decay": math.nan}, {"steps": 0},
    ):  # fmt: skip
        with pytest.raises(RecipeError):
            Train(**wrong)


def test_a_fraction_of_an_epoch_is_not_cut_by_rounding():
    for epochs, steps in ((2.3, 23), (0.7, 7), (0.29, 2), (1.1, 11), (0.01, 1)):
        assert Train(epochs=epochs).total_steps(lambda epoch: 10) == steps
    assert Train(epochs=2.5, accumulate=4).total_steps(lambda epoch: 10) == 6


def test_the_rate_is_transformers_rate_but_for_a_warm_up_that_starts_one_step_later():
    """transformers' first step has rate 0 and moves nothing; here the first step of the warm-up already counts."""
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, made in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        for total, warmup in ((10, 3), (5, 0), (4, 4), (1, 0)):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            scheduler, theirs = made(optimizer, warmup, total), []
            for _ in range(total):
                theirs.append(scheduler.get_last_lr()[0])
                optimizer.step()
                scheduler.step()
            ours = [optim.learning_rate(k, peak=1.0, total=total, warmup=warmup, schedule=name) for k in range(total)]  # type: ignore[arg-type]
            np.testing.assert_allclose(ours[warmup:], theirs[warmup:], atol=1e-12)
            np.testing.assert_allclose(ours[: max(warmup - 1, 0)], theirs[1:warmup], atol=1e-12)
