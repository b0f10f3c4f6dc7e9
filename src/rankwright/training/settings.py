"""How a stage is trained: optimizer, schedule, precision, memory, logging; checked on construction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import RecipeError
from ..types import Precision

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@dataclass(frozen=True)
class Train:
    """Settings of one training stage.

    Args:
        learning_rate: peak rate of AdamW.
        epochs: passes over the queries; or give `steps`.
        steps: optimizer steps, instead of `epochs`.
        warmup: share of the steps (below 1) or number of steps (from 1) over which the rate rises.
        schedule: how the rate falls afterwards.
        weight_decay: of weights with two or more dimensions.
        betas: AdamW's moment decay rates.
        eps: AdamW's denominator offset.
        max_grad_norm: clip the gradient's L2 norm; null for none.
        precision: of the encoder's arithmetic. ``auto``: bf16 where the device multiplies it natively (new GPUs, and
            CPUs with AVX512-BF16 or AMX), float32 elsewhere. Scores and losses are float32 always.
        accumulate: batches per optimizer step. They share no negatives: a larger batch does.
        micro_batch_tokens: padded tokens encoded at a time; bounds memory, changes neither loss nor gradient.
        graph_tokens: padded tokens whose graphs are kept instead of computed twice; likewise.
        memory: ``auto``: choose both of these from a measurement and the free memory; a number: to stay below so
            many GiB. Null: as given.
        parallel: of several processes (torchrun): ``ddp``: each holds the whole model; ``fsdp``: weights, gradients and
            optimizer are divided among them, for models that do not fit one. Loss and gradient are the same.
        save_every: optimizer steps between checkpoints.
        keep_checkpoints: how many of the newest are kept.
        workers: threads that prepare batches; 0: none. Order and content are the same for any number.
        track: also log to these; log.jsonl is always written.
    """

    learning_rate: float = 2e-5
    epochs: float | None = None
    steps: int | None = None
    warmup: float = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0
    precision: Precision = "float32"
    accumulate: int = 1
    micro_batch_tokens: int = 4096
    graph_tokens: int = 16384
    memory: Literal["auto"] | float | None = None
    parallel: Literal["ddp", "fsdp"] = "ddp"
    save_every: int = 100
    keep_checkpoints: int = 2
    workers: int = 1
    track: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise RecipeError("give epochs or steps, not both")
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 1.0)
        positive = ("learning_rate", "epochs", "steps", "accumulate", "micro_batch_tokens", "save_every", "eps")
        for name in (*positive, "keep_checkpoints", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"{name} must be above 0 and finite, got {value}")
        if self.memory is not None and self.parallel == "fsdp":
            raise RecipeError(
                "memory measures a model that one process holds whole, parallel: fsdp divides it",
                fix="give micro_batch_tokens and graph_tokens",
            )
        if self.memory not in (None, "auto") and not 0 < float(self.memory) < math.inf:
            raise RecipeError(f"memory must be auto or a number of GiB above 0, got {self.memory}")
        for name in ("warmup", "weight_decay", "graph_tokens", "workers"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must not be negative, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"betas must be two numbers from 0 to below 1, got {self.betas}")

    def total_steps(self, steps_per_epoch: Callable[[int], int]) -> int:
        """Optimizer steps of the whole stage; epoch e has ``steps_per_epoch(e)`` batches."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        whole = int(self.epochs)
        batches = float(sum(steps_per_epoch(epoch) for epoch in range(whole)))
        if self.epochs > whole:
            batches += (self.epochs - whole) * steps_per_epoch(whole)
        return max(1, int(batches / self.accumulate + 1e-6))  # 2.3 epochs of 10 batches are 23, not 22.999999999999996

    def warmup_steps(self, total: int) -> int:
        """Steps over which the rate rises."""
        return int(self.warmup) if self.warmup >= 1 else int(self.warmup * total)
