"""Which documents of a query enter its list: pure functions of (candidates, seed, epoch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from ..errors import RecipeError
from ..randomness import generator, key
from ..types import Candidates, Example
from ._checks import at_least


class Group(ABC):
    """Chooses a query's list for one epoch; never takes a document twice.

    Attributes:
        needs_relevant: whether it can do nothing without a document whose target is above 0.
    """

    needs_relevant: ClassVar[bool] = False

    @abstractmethod
    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        """The documents of the list, in its order; all that there are when there are too few."""

    @property
    def grades(self) -> tuple[float, ...]:
        """Targets of which a query needs a document each; a query that lacks one is not trained on."""
        return ()

    def files(self) -> tuple[str, ...]:
        """The files whose content decides, besides the arguments."""
        return ()

    def check(self, queries: Sequence[str], docs: Sequence[str]) -> None:
        """Whether its files are about what is trained on.

        Raises:
            DataError: one of them names none of these queries, or none of these documents.
        """
        return None


def taken(candidates: Candidates, places: Iterable[int]) -> Example:
    places = list(places)
    docs, targets = [candidates.docs[i] for i in places], [candidates.targets[i] for i in places]
    return Example(candidates.query, docs, targets)


@dataclass(frozen=True)
class Random(Group):
    """Documents drawn uniformly without replacement, anew each epoch, whatever their targets.

    For losses that learn from a graded list; a list may come without any relevant document.
    """

    size: int = 8

    def __post_init__(self) -> None:
        at_least("Random", "size", self.size, 1)

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        order = generator(seed, "group", epoch, candidates.query).permutation(len(candidates.docs))
        return taken(candidates, order[: self.size].tolist())


@dataclass(frozen=True)
class Top(Group):
    """The documents of the highest targets, highest first; equal ones in an order drawn anew each epoch."""

    size: int = 8

    def __post_init__(self) -> None:
        at_least("Top", "size", self.size, 1)

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        order = generator(seed, "group", epoch, candidates.query).permutation(len(candidates.docs))
        order = order[np.argsort(-np.asarray(candidates.targets)[order], kind="stable")]
        return taken(candidates, order[: self.size].tolist())


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
        at_least("OneRelevant", "negatives", self.negatives, 0)

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
        return taken(candidates, [first, *(others[i] for i in drawn)])


@dataclass(frozen=True)
class PerGrade(Group):
    """So many documents of every grade, highest grade first, drawn anew each epoch without replacement.

    A grade is a target; where teacher scores are the targets, each score is a grade of its own.

    Args:
        counts: how many of each grade there is; or a number a grade, ``{3: 1, 2: 1, 0: 4}``: the other grades then
            stay out, unless the query has none of these (the list would be empty): all its documents are then drawn
            from, as many as the counts add up to.
        every: train on those queries alone that have a document of each grade that `counts` names, whatever its
            number: ``{2: 1, 1: 0}`` is a relevant document of the queries that have hard negatives.
    """

    counts: int | Mapping[str, int] = 1
    every: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.counts, Mapping):
            if self.every:
                what = "every needs the grades that a query must have"
                raise RecipeError(what, where="PerGrade.every", fix="name them: counts: {2: 1, 1: 8}")
            return at_least("PerGrade", "counts", self.counts, 1)
        counts: dict[str, int] = {}
        for grade, count in self.counts.items():
            at_least("PerGrade", f"counts.{grade}", count, 0)
            counts[f"{_grade(grade):g}"] = count
        if not sum(counts.values()):
            raise RecipeError("counts name no document", where="PerGrade.counts", fix="e.g. {3: 1, 2: 1, 0: 4}")
        object.__setattr__(self, "counts", counts)  # 3, "3" and "3.0" are one grade

    @property
    def grades(self) -> tuple[float, ...]:
        return tuple(map(float, cast(Mapping[str, int], self.counts))) if self.every else ()

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        order = generator(seed, "group", epoch, candidates.query).permutation(len(candidates.docs)).tolist()
        by_grade: dict[float, list[int]] = {}
        for place in order:
            by_grade.setdefault(float(candidates.targets[place]), []).append(place)
        grades = sorted(by_grade, reverse=True)
        if isinstance(self.counts, int):
            return taken(candidates, [place for grade in grades for place in by_grade[grade][: self.counts]])
        count = {float(grade): count for grade, count in cast(Mapping[str, int], self.counts).items()}
        places = [place for grade in grades for place in by_grade[grade][: count.get(grade, 0)]]
        return taken(candidates, places or order[: sum(count.values())])


def _grade(text: object) -> float:
    try:
        return float(cast(str, text))
    except (TypeError, ValueError):
        what = f"{text!r} is no grade"
        raise RecipeError(what, where="PerGrade.counts", fix="write grade: count, e.g. {3: 1, 0: 4}") from None


@dataclass(frozen=True)
class Window(Group):
    """Documents between two ranks by target, drawn uniformly without replacement, anew each epoch; best first.

    The highest target has rank 1; equal targets are ranked in an order drawn anew each epoch. A query with fewer
    documents than the first rank gives its last one.

    Args:
        ranks: first and last, both included.
        size: documents of the list; as many as there are in the window when there are fewer.
    """

    ranks: tuple[int, int] = (1, 100)
    size: int = 8

    def __post_init__(self) -> None:
        at_least("Window", "size", self.size, 1)
        if not (isinstance(self.ranks, tuple | list) and len(self.ranks) == 2):
            raise RecipeError(f"ranks are {self.ranks!r}", where="Window.ranks", fix="give two, e.g. [1, 100]")
        first, last = self.ranks
        at_least("Window", "ranks", first, 1)
        at_least("Window", "ranks", last, first)

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        rng = generator(seed, "group", epoch, candidates.query)
        order = rng.permutation(len(candidates.docs))
        order = order[np.argsort(-np.asarray(candidates.targets)[order], kind="stable")]
        first = min(self.ranks[0], len(order))
        window = order[first - 1 : self.ranks[1]]
        drawn = np.sort(rng.choice(len(window), min(self.size, len(window)), replace=False))
        return taken(candidates, window[drawn].tolist())
