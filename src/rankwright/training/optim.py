"""The optimizer (AdamW) and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float

from ..errors import RecipeError
from ..types import Tensor
from . import distributed

Schedule = Literal["linear", "cosine", "constant"]


def learning_rate(step: int, *, peak: float, total: int, warmup: int, schedule: Schedule) -> float:
    """The rate of step 0, 1 ... total - 1: rises linearly over `warmup` steps, then falls to 0 (or stays)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    share = (step - warmup) / max(1, total - warmup)
    return peak * (1 - share if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share)))


def adamw(model: torch.nn.Module, *, weight_decay: float, betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters in one pass over memory; biases and norms (one dimension) are not decayed.

    Raises:
        RecipeError: all of them are frozen.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise RecipeError("every parameter is frozen: there is nothing to train", fix="freeze fewer parts of the model")
    decayed = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def clip(model: torch.nn.Module, max_norm: float | None) -> float:
    """The gradient's L2 norm before clipping to `max_norm` (None: not clipped)."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = distributed.full(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if max_norm is not None and math.isfinite(float(norm)) and float(norm) > max_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def state_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Float[Tensor, "..."]]:
    """The optimizer's state, divided as they are, under the parameters' names: ``exp_avg/encoder.layer.0.weight``."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{field}/{name}"] = torch.as_tensor(value)
    return tensors


def load_state_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Float[Tensor, "..."]]
) -> None:
    """Put `state_tensors` back, on the parameters' devices: the fused kernel reads the step counts there too."""
    parameters = dict(model.named_parameters())
    for full, value in tensors.items():
        field, name = full.split("/", 1)
        part = distributed.like(value, parameters[name])
        optimizer.state[parameters[name]][field] = part.to(parameters[name].device).clone()
