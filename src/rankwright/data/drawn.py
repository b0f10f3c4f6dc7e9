"""A batch's random pool: documents of queries outside the batch, drawn once for all of its queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..randomness import permutation
from ._checks import at_least


@dataclass(frozen=True)
class Drawn:
    """Negatives that all queries of a batch share: one document of each of the next `size` queries (SR-DPR's `pos`).

    Each of these queries gives one of its documents with a target above 0 at random - its relevant document or one of
    its hard negatives - and comes up in a batch of its own later. Terms see them under ``against: drawn`` and, with all
    other documents of the batch, under ``against: batch`` and ``others``.

    Args:
        size: queries that give a document (SR-DPR: `contrastive_size`).
        rest: take a part of them from the queries of the stage's data that its group leaves out for want of a grade,
            in proportion to their number (SR-DPR: `use_randneg`, whose second data set is that of samples without hard
            negatives).
    """

    size: int = 16
    rest: bool = False

    def __post_init__(self) -> None:
        at_least("Drawn", "size", self.size, 1)

    def shares(self, trained: int, left_out: int) -> tuple[int, int]:
        """How many come from the queries that are trained on, how many from those left out."""
        if not self.rest or not left_out:
            return self.size, 0
        first = self.size * trained // (trained + left_out)
        return first, self.size - first


def following(order_of: Callable[[int], np.ndarray], epoch: int, begin: int, count: int) -> list[tuple[int, int]]:
    """The next (query row, epoch) pairs of an endless stream from place `begin` of an epoch on.

    Args:
        order_of: the query rows of one epoch, in order; never empty.
    """
    found: list[tuple[int, int]] = []
    while len(found) < count:
        rows = order_of(epoch)[begin : begin + count - len(found)]
        found += [(row, epoch) for row in rows.tolist()]
        epoch, begin = epoch + 1, 0
    return found


def endless(n: int, begin: int, count: int, *, seed: int) -> list[tuple[int, int]]:
    """`count` (number below n, turn) pairs from place `begin` on of all numbers in a random order, again and again."""
    places = range(begin, begin + count)
    orders = {turn: permutation(n, seed, "rest", turn) for turn in {place // n for place in places}}
    return [(int(orders[place // n][place % n]), place // n) for place in places]
