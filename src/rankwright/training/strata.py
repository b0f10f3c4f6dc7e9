"""Strata: the two grades of documents that a term contrasts, as SR-DPR's pipelines do; no torch at import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor

Stratum = Literal["positive", "hard", "random"] | float
GRADES = {"positive": 2.0, "hard": 1.0, "random": 0.0}


@dataclass(frozen=True)
class Strata:
    """Of a pool, the documents of one grade are the relevant ones and those of others the negatives; the rest is out.

    ``positive``, ``hard`` and ``random`` are the grades 2, 1 and 0; any other grade is named by its number. A document
    of which the source knows nothing is ``random``. Relevant are those of the query's own list alone: another one of
    that grade counts for nothing, and neither does one of a grade that is not named.

    Args:
        upper: whose documents count as relevant.
        lower: whose documents count as negatives; one stratum or several.
    """

    upper: Stratum = "positive"
    lower: Stratum | tuple[Stratum, ...] = ("hard", "random")

    def __post_init__(self) -> None:
        if isinstance(self.lower, list):
            object.__setattr__(self, "lower", tuple(self.lower))
        low, high = self.low, self.high
        if not low or not all(math.isfinite(grade) for grade in (high, *low)):
            raise RecipeError(
                f"strata are {self.upper!r} over {self.lower!r}", fix="e.g. {upper: positive, lower: hard}"
            )
        if high in low:
            what = f"the grade {high:g} is both upper and lower"
            raise RecipeError(what, where="strata", fix="a stratum is contrasted with others")

    @property
    def high(self) -> float:
        """The grade of relevant documents."""
        return _grade(self.upper)

    @property
    def low(self) -> tuple[float, ...]:
        """The grades of negatives."""
        return tuple(map(_grade, self.lower if isinstance(self.lower, tuple) else (self.lower,)))

    def relevant(self, grades: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        return grades == self.high

    def negative(self, grades: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        found = grades == self.low[0]
        for grade in self.low[1:]:
            found = found | (grades == grade)
        return found


def _grade(stratum: Stratum) -> float:
    if isinstance(stratum, str):
        if stratum not in GRADES:
            fix = f"choose one of {', '.join(GRADES)}, or give a number"
            raise RecipeError(f"{stratum!r} is no stratum", where="strata", fix=fix)
        return GRADES[stratum]
    return float(stratum)
