"""Which documents of a query enter its list: pure functions of (candidates, seed, epoch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import RecipeError
from ..randomness import generator, key
from ..types import Candidates, Example


class Group(ABC):
    """Chooses a query's list for one epoch; never takes a document twice.

    Attributes:
        needs_relevant: whether it can do nothing without a document whose target is above 0.
    """

    needs_relevant: ClassVar[bool] = False

    @abstractmethod
    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        """The documents of the list, in its order; all that there are when there are too few."""


def _taken(candidates: Candidates, places: Iterable[int]) -> Example:
    places = list(places)
    docs, targets = [candidates.docs[i] for i in places], [candidates.targets[i] for i in places]
    return Example(candidates.query, docs, targets)


def _at_least(spec: str, name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecipeError(f"{name} is {value!r}", where=f"{spec}.{name}", fix=f"give a whole number of {least} or more")


@dataclass(frozen=True)
class Random(Group):
    """Documents drawn uniformly without replacement, anew each epoch, whatever their targets.

    For losses that learn from a graded list; a list may come without any relevant document.
    """

    size: int = 8

    def __post_init__(self) -> None:
        _at_least("Random", "size", self.size, 1)

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        order = generator(seed, "group", epoch, candidates.query).permutation(len(candidates.docs))
        return _taken(candidates, order[: self.size].tolist())


@dataclass(frozen=True)
class Top(Group):
    """The documents of the highest targets, highest first; equal ones in an order drawn anew each epoch."""

    size: int = 8

    def __post_init__(self) -> None:
        _at_least("Top", "size", self.size, 1)

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        order = generator(seed, "group", epoch, candidates.query).permutation(len(candidates.docs))
        order = order[np.argsort(-np.asarray(candidates.targets)[order], kind="stable")]
        return _taken(candidates, order[: self.size].tolist())


@dataclass(frozen=True)
class OneRelevant(Group):
    """One document with a target above 0 first, then negatives: documents with a target of 0 or below.

    The relevant ones take turns: in as many epochs as there are each is used once. Negatives are drawn anew
    each epoch, without replacement.

    Args:
        negatives: how many; 0 leaves the other queries' documents as the only negatives.
    """

    negatives: int = 7
    needs_relevant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _at_least("OneRelevant", "negatives", self.negatives, 0)

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        relevant = [i for i, target in enumerate(candidates.targets) if target > 0]
        others = [i for i, target in enumerate(candidates.targets) if target <= 0]
        assert relevant, "a query without relevant documents has no place in a Supervision"
        start = key(seed, "group turn", candidates.query) if len(relevant) > 1 else 0
        first = relevant[(start + epoch) % len(relevant)]
        drawn: list[int] = []
        if others and self.negatives:
            count = min(self.negatives, len(others))
            rng = generator(seed, "group", epoch, candidates.query)
            drawn = rng.choice(len(others), count, replace=False).tolist()
        return _taken(candidates, [first, *(others[i] for i in drawn)])
