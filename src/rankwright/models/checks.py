"""Checks of single fields that several specifications share."""

from __future__ import annotations

from ..errors import RecipeError


def check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise RecipeError(f"{name} is {value!r}", fix=f"choose one of {', '.join(choices)}, or leave it out")


def check_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise RecipeError(f"{name} is {value}", fix="give a probability from 0 to below 1, e.g. 0.1")
