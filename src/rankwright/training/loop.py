"""One training stage: steps, schedule, validation, logging, checkpoints, signals; resumes bit for bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from .. import signals, storage
from ..errors import NonFiniteError, Stopped
from ..models import precision
from ..progress import progress, say
from ..types import Batch
from . import checkpoint, distributed, optim, trackers
from .checkpoint import State
from .cycle import Batches, Cycle, Part
from .memory import Memory, Plan, peak, plan_memory
from .objective import Objective
from .settings import Train
from .step import Step, StepRanker, record_of

if TYPE_CHECKING:
    from .sharding import Sharded

LOG, INCIDENTS, VALIDATION = "log.jsonl", "incidents.jsonl", "validation.jsonl"


@dataclass(frozen=True)
class Validator:
    """Measures the model now and then.

    Args:
        measure: returns named values; called with the model in evaluation mode.
        headline: the name that decides which step is best; higher is better.
        every: optimizer steps between validations; the last step is validated too.
        patience: stop after this many validations without a new best; None: never.
    """

    measure: Callable[[], Mapping[str, float]]
    headline: str
    every: int
    patience: int | None = None


def train_stage(
    ranker: torch.nn.Module,
    batches: Batches,
    objective: Objective,
    *,
    settings: Train,
    folder: Path,
    identity: Mapping[str, str],
    seed: int = 0,
    device: str = "cpu",
    validator: Validator | None = None,
    allow_drift: bool = False,
) -> State:
    """Train `ranker` in place and return the final state; run again after any interruption, it goes on.

    Args:
        folder: receives log.jsonl, validation.jsonl, incidents.jsonl and checkpoints/.
        identity: named hashes of everything the result depends on; a checkpoint of another identity is refused.

    Raises:
        Stopped: a signal came; a checkpoint of the last step was written.
        DataError: an epoch without a batch.
        DriftError: the checkpoints belong to another identity.
        UsageError: bf16 or fp16 without a CUDA device.
        NonFiniteError: three steps in a row, or 1 % of them, had a loss or gradient that is not finite.
    """
    part = Part("", batches, objective, seed=seed, accumulate=settings.accumulate)
    return train_cycle(
        ranker, [part], settings=settings, folder=folder, identity=identity, device=device, validator=validator,
        allow_drift=allow_drift,
    )  # fmt: skip


def train_cycle(
    ranker: torch.nn.Module,
    parts: Sequence[Part],
    *,
    settings: Train,
    folder: Path,
    identity: Mapping[str, str],
    device: str = "cpu",
    validator: Validator | None = None,
    allow_drift: bool = False,
) -> State:
    """`train_stage` with several kinds of steps in turn under one optimizer, whose `settings` hold for all.

    Of these `accumulate` is each part's own instead; with `epochs`, they are the first part's.

    Raises:
        As `train_stage`.
    """
    loop = _Loop(ranker, Cycle(parts), settings, folder, dict(identity), device, validator, allow_drift)
    loop.run()
    return loop.state


class _Loop:
    """The state of one stage; `run` is the story, the other methods its sentences."""

    def __init__(
        self,
        ranker: torch.nn.Module,
        cycle: Cycle,
        settings: Train,
        folder: Path,
        identity: dict[str, str],
        device: str,
        validator: Validator | None,
        allow_drift: bool,
    ) -> None:
        self.ranker, self.settings, self.folder, self.validator = ranker, settings, folder, validator
        self.cycle = cycle
        self.identity, self.allow_drift, self.device = identity, allow_drift, device
        self.checkpoints = folder / "checkpoints"
        self.model = ranker  # what is trained: the ranker, or a copy that is divided among the processes
        if settings.parallel == "fsdp" and distributed.world() > 1:
            from .sharding import Sharded

            self.model = Sharded(ranker)
        self.optimizer = optim.adamw(
            self.model, weight_decay=settings.weight_decay, betas=settings.betas, eps=settings.eps
        )
        arithmetic = precision.chosen(settings.precision, device)
        memory = self.memory = Memory(tokens=settings.micro_batch_tokens, graph_tokens=settings.graph_tokens)
        self.steps = [
            Step(
                cast("StepRanker", self.model), part.objective, seed=part.seed, device=device,
                autocast=precision.autocast(arithmetic, device), divided=self.model is not ranker,
            )
            for part in cycle.parts
        ]  # fmt: skip
        scale = 65536.0 if arithmetic == "fp16" else None
        self.state = State(
            tokens=memory.tokens, graph_tokens=memory.graph_tokens, scores=memory.scores, scale=scale
        )  # fmt: skip
        self.tracking: list[trackers.Tracker] = []
        self.plan: tuple[Plan, int] | None = None  # and the step after which it is compared with what happened

    def run(self) -> None:
        total = self.cycle.total(self.settings)
        self._resume()
        self._plan_memory(self.cycle.parts[0].batches)
        with ExitStack() as until_the_end:
            if distributed.rank() == 0:
                self.tracking = trackers.start(self.settings.track, self.folder)
            for tracker in self.tracking:
                until_the_end.callback(tracker.close)
            self._steps(total)
        if self._patience_is_over():
            say(f"no better validation for {self.state.stale} times: stopped early at step {self.state.step}")
            self._save()
        if self.validator and self.state.best is not None and self.state.best_step != self.state.step:
            say(f"best validation was at step {self.state.best_step}: these weights are kept")
            checkpoint.load_best(self.folder / "best", model=self.model, step=self.state.best_step)
        self._whole()
        self.ranker.eval()

    def _steps(self, total: int) -> None:
        settings, missing, idle = self.settings, 0, 0
        self.model.train()
        supplies = self.cycle.supplies(self.state.step, total)
        with progress("train", total, "steps") as bar:
            bar.skip(self.state.step)
            if self._validation_is_due(total):  # a signal stopped it
                self._validate()
                self._save()
            while self.state.step < total and not self._patience_is_over():
                record = self._one_step(supplies, total)
                self._log(record)
                missing, idle = missing + int(record["missing"]), idle + (record["grad_norm"] == 0)
                bar.advance(note=f"{record.get('stage', '')} loss {record['loss']:.4f}".lstrip())
                self._compare_memory()
                if self._validation_is_due(total):
                    self._validate()
                last = self.state.step == total
                stopping = distributed.any_rank(signals.requested())
                if last or stopping or self.state.step % settings.save_every == 0:
                    self._save()
                if stopping and not last:
                    _stop()
        if missing:
            say(f"{missing:,} pairs did not count, because a teacher has no score for them")
        if idle:
            say(f"{idle:,} steps had no gradient: is a loss defined on their lists? See group and targets")

    # --- memory -----------------------------------------------------------------------------------

    def _plan_memory(self, batches: Batches) -> None:
        """Choose the budgets before the first step; a resumed stage keeps those it had, and so its bits."""
        if self.settings.memory is None or self.state.step:
            return
        batch = next(batches.iterate(0, 1))
        ranker = cast("StepRanker", self.model)
        self.model.train()
        plan = plan_memory(
            self.model, batch, lambda texts: ranker.represent(texts, "doc"), device=self.device,
            limit=self.settings.memory,
        )  # fmt: skip
        smallest = distributed.smallest([plan.memory.tokens, plan.memory.graph_tokens])
        self.memory = Memory(tokens=smallest[0], graph_tokens=smallest[1])
        self.plan = plan, 3
        say(str(plan))

    def _compare_memory(self) -> None:
        if self.plan and self.state.step == self.plan[1]:
            say(f"memory: peak after {self.state.step} steps {peak(self.device) / (1 << 30):.2f} GiB, "
                f"predicted {self.plan[0].predicted / (1 << 30):.2f}")  # fmt: skip

    # --- one step ---------------------------------------------------------------------------------

    def _one_step(self, supplies: Sequence[Iterator[Batch]], total: int) -> dict[str, Any]:
        settings, state, began = self.settings, self.state, time.perf_counter()
        at, earlier = self.cycle.at(state.step)
        part, step, supply = self.cycle.parts[at], self.steps[at], supplies[at]
        step.memory = self.memory
        rate = optim.learning_rate(
            state.step, peak=settings.learning_rate, total=total,
            warmup=settings.warmup_steps(total), schedule=settings.schedule,
        )  # fmt: skip
        optim.set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        scale = state.scale or 1.0
        results = []
        for micro in range(part.accumulate):
            batch = next(supply, None)
            assert batch is not None, f"the supply ended at step {state.step} of {total}"
            number = earlier * part.accumulate + micro
            last = micro == part.accumulate - 1
            results.append(step(batch, step=number, weight=scale / part.accumulate, last=last))
        if self.model is self.ranker:  # a divided model has its gradients summed behind the last backward pass
            distributed.sum_gradients(self.ranker.parameters())
        if scale != 1.0:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(scale)
        loss = sum(r.loss for r in results) / len(results)
        norm = optim.clip(self.model, settings.max_grad_norm)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        memory = self.memory = step.memory
        self.state = replace(
            state, step=state.step + 1, tokens=memory.tokens, graph_tokens=memory.graph_tokens, scores=memory.scores
        )  # fmt: skip
        self._scaled(finite) if state.scale else self._gate(finite, loss, norm, total)
        stage = {"stage": part.name} if len(self.steps) > 1 else {}
        return record_of(self.state.step, loss, norm, rate, results, time.perf_counter() - began) | stage

    def _gate(self, finite: bool, loss: float, norm: float, total: int) -> None:
        """A step that is not finite touches neither weights nor moments; too many end the run."""
        if finite:
            self.state = replace(self.state, in_a_row=0)
            return
        self.state = replace(self.state, skipped=self.state.skipped + 1, in_a_row=self.state.in_a_row + 1)
        incident = {"step": self.state.step, "loss": str(loss), "grad_norm": str(norm), "action": "update skipped"}
        if distributed.rank() == 0:
            storage.append_line(self.folder / INCIDENTS, incident)
        say(f"step {self.state.step}: loss {loss}, gradient norm {norm}: update skipped")
        if self.state.in_a_row >= 3 or self.state.skipped > max(3, total // 100):
            raise NonFiniteError(
                f"{self.state.in_a_row} steps in a row ({self.state.skipped} in all) had no finite loss and gradient",
                where=self.folder / INCIDENTS,
                fix="lower the learning rate, raise the temperature, or train in float32",
            )

    def _scaled(self, finite: bool) -> None:
        """fp16: an overflow halves the scale, 2,000 good steps double it."""
        assert self.state.scale is not None
        good = self.state.scale_good + 1 if finite else 0
        scale = self.state.scale * (2.0 if good == 2000 else 1.0 if finite else 0.5)
        if scale < 1:
            raise NonFiniteError("fp16 overflows at any loss scale", fix="use precision: bf16 or float32")
        self.state = replace(self.state, scale=scale, scale_good=good % 2000)

    # --- validation and records -------------------------------------------------------------------

    def _patience_is_over(self) -> bool:
        patience = self.validator.patience if self.validator else None
        return patience is not None and self.state.stale >= patience

    def _validation_is_due(self, total: int) -> bool:
        step = self.state.step
        if self.validator is None or step in (0, self.state.validated):
            return False
        return step == total or step % self.validator.every == 0

    def _validate(self) -> None:
        validator = self.validator
        assert validator is not None
        values = self._measured(validator)
        value = values[validator.headline]
        self.state = replace(self.state, validated=self.state.step)
        if not math.isnan(value) and (self.state.best is None or value > self.state.best):
            self.state = replace(self.state, best=value, best_step=self.state.step, stale=0)
            self._save(best=True)
        else:
            self.state = replace(self.state, stale=self.state.stale + 1)
        if distributed.rank() == 0:
            storage.append_line(self.folder / VALIDATION, {"step": self.state.step, **values})
            for tracker in self.tracking:
                tracker.log(self.state.step, {f"validation/{k}": v for k, v in values.items()})
        say(f"step {self.state.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def _measured(self, validator: Validator) -> dict[str, float]:
        """The first process's values, for all decide by them; a signal leaves the validation for the next time."""
        values, stopped = {}, False
        self._whole()
        self.ranker.eval()
        try:
            if distributed.rank() == 0:
                with distributed.alone():
                    values = dict(validator.measure())
        except Stopped:
            stopped = True
        finally:
            self.ranker.train()
            if self.model is not self.ranker:
                self.ranker.to("cpu")  # it is in the way on the device
        if distributed.any_rank(stopped):
            self._save()
            _stop()
        return distributed.told(values)

    def _log(self, record: dict[str, Any]) -> None:
        if distributed.rank() == 0:
            storage.append_line(self.folder / LOG, record)
            place = f"train/{record['stage']}" if "stage" in record else "train"
            values = {f"{place}/{name}": v for name, v in record.items() if name not in ("step", "stage")}
            for tracker in self.tracking:
                tracker.log(int(record["step"]), values)

    # --- checkpoints ------------------------------------------------------------------------------

    def _whole(self) -> None:
        """Give the ranker the weights of its divided copy, if that is what is trained."""
        if self.model is not self.ranker:
            cast("Sharded", self.model).gather()

    def _save(self, *, best: bool = False) -> None:
        checkpoint.save(
            self.folder / "best" if best else self.checkpoints,
            model=self.model,
            optimizer=self.optimizer,
            state=self.state,
            identity=self.identity,
            keep=self.settings.keep_checkpoints,
            best=best,
        )
        distributed.wait()  # a process that goes on to stop would end the one that is writing

    def _resume(self) -> None:
        found = checkpoint.newest(self.checkpoints, identity=self.identity, allow_drift=self.allow_drift)
        if found is None:
            return self._cut_logs()
        path, self.state, drift = found
        checkpoint.load(path, model=self.model, optimizer=self.optimizer)
        state = self.state
        self.memory = Memory(tokens=state.tokens, graph_tokens=state.graph_tokens, scores=state.scores)
        self._cut_logs()
        if drift and distributed.rank() == 0:
            incident = {"step": self.state.step, "drift": drift, "action": "resumed on request"}
            storage.append_line(self.folder / INCIDENTS, incident)
        say(f"resumed after step {self.state.step} from {path}")

    def _cut_logs(self) -> None:
        """Drop what was logged after the checkpoint: those steps are done again."""
        if distributed.rank():
            return
        for name in (LOG, VALIDATION, INCIDENTS):
            path = self.folder / name
            records, damaged = storage.readable_lines(path, ["step"])
            kept = [r for r in records if r["step"] <= self.state.step]
            if damaged:
                say(f"{name}: {damaged} damaged lines were dropped")
            if path.exists():
                storage.write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))


def _stop() -> None:
    """Raise `Stopped`, also where the signal reached another process only."""
    signals.check()
    raise Stopped("another process was stopped; what is finished is kept", fix="run the same command again to go on")
