"""Which queries travel together: the order of one epoch, a pure function of (lists, seed, epoch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RecipeError
from ..randomness import permutation
from ._checks import at_least

Documents = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch: batch i is the query rows ``order[offsets[i]:offsets[i + 1]]``."""

    order: np.ndarray  # int64 [queries]
    offsets: np.ndarray  # int64 [batches + 1]

    def __len__(self) -> int:
        """How many batches."""
        return len(self.offsets) - 1

    def batch(self, i: int) -> np.ndarray:
        """The query rows of batch i (int64 [q])."""
        return self.order[self.offsets[i] : self.offsets[i + 1]]

    @classmethod
    def of(cls, batches: Sequence[Sequence[int]]) -> EpochPlan:
        sizes = [len(batch) for batch in batches]
        order = np.fromiter((row for batch in batches for row in batch), np.int64, sum(sizes))
        return cls(order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


class Batches(ABC):
    """Puts the queries of an epoch into batches."""

    @abstractmethod
    def plan(self, queries: Sequence[str], documents: Documents, *, seed: int, epoch: int) -> EpochPlan:
        """The batches of one epoch.

        Args:
            queries: the query ids; a query's row is its place among them.
            documents: query row -> the documents in its list this epoch, as numbers.

        Raises:
            RecipeError: no batch comes about. DataError: a file it names is missing or wrong.
        """

    def files(self) -> tuple[str, ...]:
        """The files whose content decides, besides the arguments."""
        return ()


@dataclass(frozen=True)
class Shuffled(Batches):
    """Queries in random order, `size` at a time; each once an epoch.

    A document is never in two lists of one batch: a query whose list would repeat one waits for the next batch
    without it. Where many queries share documents, the last batches of an epoch are therefore small.

    Args:
        size: queries of one batch, over all processes.
        repeats: let a document be in several lists of a batch (it is still encoded once).
        drop_last: leave out batches with fewer than `size` queries.
    """

    size: int = 32
    repeats: bool = False
    drop_last: bool = False

    def __post_init__(self) -> None:
        at_least("Shuffled", "size", self.size, 1)

    def plan(self, queries: Sequence[str], documents: Documents, *, seed: int, epoch: int) -> EpochPlan:
        order = permutation(len(queries), seed, "batches", epoch).tolist()
        batches = slices(order, self.size) if self.repeats else apart(order, documents, self.size)
        return planned("Shuffled", batches, self.size, queries=len(queries), drop_last=self.drop_last)


@dataclass(frozen=True)
class ByDocument(Batches):
    """Queries whose lists begin with the same document travel together, so that it is encoded once for all of them.

    Otherwise in random order, `size` at a time; each query once an epoch. Where documents have several queries a step
    costs less, and its other documents are all strangers to them. The first document of a list is the relevant one
    of `OneRelevant` and the best of `Top`.

    Args:
        size: queries of one batch, over all processes.
        drop_last: leave out batches with fewer than `size` queries.
    """

    size: int = 32
    drop_last: bool = False

    def __post_init__(self) -> None:
        at_least("ByDocument", "size", self.size, 1)

    def plan(self, queries: Sequence[str], documents: Documents, *, seed: int, epoch: int) -> EpochPlan:
        groups: dict[int, list[int]] = {}
        for query in permutation(len(queries), seed, "batches", epoch).tolist():
            docs = documents(query)
            groups.setdefault(docs[0] if docs else -1 - query, []).append(query)
        found = list(groups.values())  # large groups tend to come first: hence a second shuffle
        order = [query for i in permutation(len(found), seed, "groups", epoch).tolist() for query in found[i]]
        batches = slices(order, self.size)
        return planned("ByDocument", batches, self.size, queries=len(queries), drop_last=self.drop_last)


@dataclass(frozen=True)
class ByLength(Batches):
    """Queries with lists of like length travel together, `size` at a time; each once an epoch, batches in random order.

    A list's length is its number of documents. Lists of a batch are padded to its longest: where lengths vary widely,
    little of the score matrix is then padding, and list-wise losses compare like with like.

    Args:
        size: queries of one batch, over all processes.
        repeats: let a document be in several lists of a batch, see `Shuffled`.
        drop_last: leave out batches with fewer than `size` queries.
    """

    size: int = 32
    repeats: bool = False
    drop_last: bool = False

    def __post_init__(self) -> None:
        at_least("ByLength", "size", self.size, 1)

    def plan(self, queries: Sequence[str], documents: Documents, *, seed: int, epoch: int) -> EpochPlan:
        order = permutation(len(queries), seed, "batches", epoch)
        lengths = np.fromiter((len(documents(row)) for row in order.tolist()), np.int64, len(order))
        ordered = order[np.argsort(lengths, kind="stable")].tolist()  # like lengths stay in random order
        batches = slices(ordered, self.size) if self.repeats else apart(ordered, documents, self.size)
        shuffled = [batches[i] for i in permutation(len(batches), seed, "batch order", epoch).tolist()]
        return planned("ByLength", shuffled, self.size, queries=len(queries), drop_last=self.drop_last)


def slices(order: Sequence[int], size: int) -> list[list[int]]:
    return [list(order[i : i + size]) for i in range(0, len(order), size)]


def planned(spec: str, batches: list[list[int]], size: int, *, queries: int, drop_last: bool) -> EpochPlan:
    if drop_last:
        batches = [batch for batch in batches if len(batch) == size]
    if not batches:
        what = f"{queries} queries fill no batch of {size}"
        shared = "set repeats: true if queries share documents, " if queries >= size and spec != "ByDocument" else ""
        raise RecipeError(what, where=spec, fix=f"{shared}lower size or leave drop_last out")
    return EpochPlan.of(batches)


def apart(order: Sequence[int], documents: Documents, size: int) -> list[list[int]]:
    """First fit: each query goes to the first batch that has room and none of its documents."""
    batches: list[list[int]] = []
    within: list[set[int]] = []
    free: dict[int, int] = {}  # document -> it is in every unfilled batch before this one
    first_open = 0
    for query in order:
        docs = documents(query)
        place = max([first_open, *(free.get(doc, 0) for doc in docs)])
        while place < len(batches) and (len(batches[place]) == size or not within[place].isdisjoint(docs)):
            place += 1
        if place == len(batches):
            batches.append([])
            within.append(set())
        batches[place].append(query)
        within[place].update(docs)
        while first_open < len(batches) and len(batches[first_open]) == size:
            within[first_open] = set()  # nothing will be compared with it again
            first_open += 1
        for doc in docs:
            at = max(free.get(doc, 0), first_open)
            while at < len(batches) and (doc in within[at] or len(batches[at]) == size):
                at += 1
            free[doc] = at
    return batches
