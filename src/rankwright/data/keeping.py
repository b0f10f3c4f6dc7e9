"""Which of a query's rows a source hands on: the highest, the lowest, the first, or some drawn anew each epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from ..errors import RecipeError
from ..names import bytewise
from ..types import Qrels


@dataclass(frozen=True)
class Keep:
    """So many documents of each query, all where there are no more; exactly one of the four is given.

    What is not kept is not trained on, but it stays known: a relevant document never becomes a negative.

    Args:
        top: those of the highest values; equal ones by id.
        bottom: those of the lowest values; equal ones by id.
        first: those that the file names first.
        random: drawn anew each epoch, without replacement.
    """

    top: int | None = None
    bottom: int | None = None
    first: int | None = None
    random: int | None = None

    def __post_init__(self) -> None:
        given = {name: n for name, n in vars(self).items() if n is not None}
        if len(given) != 1:
            what = f"keep is given {', '.join(given) or 'nothing'}"
            raise RecipeError(what, fix="give one of top, bottom, first and random, e.g. keep: {random: 2}")
        for name, n in given.items():
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise RecipeError(f"{name} is {n!r}", where=f"Keep.{name}", fix="give a whole number of 1 or more")

    def fixed(self, table: Qrels) -> np.ndarray | None:
        """The rows that are kept in every epoch (bool [n]); None where that is left to the draw."""
        if self.random is not None:
            return None
        group = np.repeat(np.arange(len(table.queries)), np.diff(table.offsets))
        keys = (group,)
        if self.first is None:
            ids = bytewise(table.docs, table.columns)
            keys = (ids, -table.values if self.top is not None else table.values, group)
        order = np.lexsort(keys)  # stable: rows of equal keys stay in file order
        kept = np.zeros(len(table), bool)
        place = np.arange(len(table)) - table.offsets[:-1][group]
        kept[order] = place < (self.top or self.bottom or self.first or 0)
        return kept


def in_fraction(queries: list[str], fraction: float) -> np.ndarray:
    """The queries of this part of all (bool [q]): by the hash of the id, so a larger part holds the smaller."""
    hashes = [xxhash.xxh3_64_intdigest(query.encode("utf-8", "surrogatepass")) for query in queries]
    return np.array(hashes, np.uint64) < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
