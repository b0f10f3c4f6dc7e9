"""Training: objective, step, loop; torch is imported when a training class is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cycle import Cycle, Part
from .objective import Objective, Term
from .pools import Pools
from .settings import Train
from .strata import Strata

if TYPE_CHECKING:
    from .check import check_gradients
    from .loop import Validator, train_cycle, train_stage
    from .memory import Memory
    from .step import Step

__all__ = [
    "Cycle",
    "Memory",
    "Objective",
    "Part",
    "Pools",
    "Step",
    "Strata",
    "Term",
    "Train",
    "Validator",
    "check_gradients",
    "train_cycle",
    "train_stage",
]

_LAZY = {"Memory": "memory", "Step": "step", "Validator": "loop", "check_gradients": "check"}
_LAZY |= {"train_cycle": "loop", "train_stage": "loop"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rankwright.training' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
