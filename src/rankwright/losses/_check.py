"""Checks of a loss's arguments on construction; no torch."""

from __future__ import annotations

import math
from typing import Any, get_args

from ..errors import RecipeError


def positive(name: str, value: float) -> None:
    """Raises RecipeError unless the argument is a finite number above 0."""
    if not 0 < value < math.inf:
        raise RecipeError(f"{name} must be above 0, got {value}")


def one_of(name: str, value: str, choices: Any) -> None:
    """Raises RecipeError unless the argument is one of a Literal's values."""
    known = get_args(choices)
    if value not in known:
        raise RecipeError(f"{name} must be one of {', '.join(known)}, got '{value}'")
