"""Queries set aside for validation: chosen by seed and id alone, so every file of a data set is divided alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import numpy as np

from ...errors import DataError, UsageError
from ...randomness import key
from ...types import Qrels, Run
from ..dataset import select_queries

_Table = TypeVar("_Table", Run, Qrels)

VALIDATION = "validation"


@dataclass(frozen=True)
class HoldOut:
    """A part of the queries of one split; the order of a file changes nothing.

    Args:
        share: of the queries; the number is rounded up, as in multi-stage fine-tuning's 907 of 90,699.
        seed: another one draws other queries.
        split: whose queries.

    Raises:
        UsageError: the share is not between 0 and 1.
    """

    share: float
    seed: int = 42
    split: str = "train"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"--validation is {self.share:g}", fix="give a part between 0 and 1, e.g. 0.01")

    def choose(self, queries: Iterable[str], *, where: str) -> frozenset[str]:
        """Which of these are set aside.

        Raises:
            DataError: none would be left to train on.
        """
        drawn = sorted(set(queries), key=lambda query: (key(self.seed, "validation", query), query))
        count = ceil(self.share * len(drawn))
        if count >= len(drawn):
            what = f"{len(drawn):,} queries cannot be divided: {count:,} are for validation"
            raise DataError(what, where=where, fix="give a smaller part, or more queries")
        return frozenset(drawn[:count])


def divided(table: _Table, held: frozenset[str]) -> tuple[_Table, _Table]:
    """What remains, and the rows of the queries that were set aside."""
    aside = np.fromiter((query in held for query in table.queries), bool, len(table.queries))
    return select_queries(table, np.flatnonzero(~aside)), select_queries(table, np.flatnonzero(aside))
