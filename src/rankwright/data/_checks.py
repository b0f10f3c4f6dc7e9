"""Checks of the arguments of groups and batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import RecipeError

CHECK_IDS = "check file and data; ids of a source with a namespace read namespace:id"


def at_least(spec: str, name: str, value: object, least: int) -> None:
    """Raises: RecipeError: not a whole number of at least that."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecipeError(f"{name} is {value!r}", where=f"{spec}.{name}", fix=f"give a whole number of {least} or more")


def finite(spec: str, name: str, value: object, *, above: float = -math.inf) -> None:
    """Raises: RecipeError: not a finite number above that."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < math.inf:
        wanted = "a finite number" if math.isinf(above) else f"a number above {above:g}"
        raise RecipeError(f"{name} is {value!r}", where=f"{spec}.{name}", fix=f"give {wanted}")


def given(spec: str, name: str, value: object) -> None:
    """Raises: RecipeError: no text."""
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{name} is {value!r}", where=f"{spec}.{name}", fix=f"name a file, e.g. {name}: {name}.tsv")


def one_of(spec: str, name: str, value: object, *, known: Sequence[str]) -> None:
    """Raises: RecipeError: none of these words."""
    if value not in known:
        raise RecipeError(f"{name} is {value!r}", where=f"{spec}.{name}", fix=f"give one of {', '.join(known)}")
