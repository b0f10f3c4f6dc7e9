"""Groups of two, a positive and a negative, chosen by the teacher's margin: MarginBins and HardMargin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..randomness import generator
from ..types import Candidates, Example
from ._checks import CHECK_IDS, at_least, finite
from .formats import read_qrels
from .groups import Group, taken


class _Pairs(NamedTuple):
    """All pairs of a query: places of documents, and the target of the positive minus that of the negative."""

    positive: np.ndarray  # int64 [p]
    negative: np.ndarray  # int64 [p]
    margins: np.ndarray  # float64 [p]


class _Positives:
    """Which documents of a query are the positives of its pairs."""

    def __init__(self, path: str | None) -> None:
        self._of: dict[str, set[str]] = {}
        if path is not None:
            for query, docs, grades in read_qrels(Path(path)):
                self._of[query] = {doc for doc, grade in zip(docs, grades.tolist()) if grade > 0}

    @property
    def queries(self) -> set[str]:
        return set(self._of)

    @property
    def docs(self) -> set[str]:
        return set().union(*self._of.values())

    def pairs(self, candidates: Candidates) -> _Pairs:
        """Every positive with every other document; without a known positive the highest targets are the positives."""
        targets = np.asarray(candidates.targets, np.float64)
        known = self._of.get(candidates.query, set())
        positive = np.array([doc in known for doc in candidates.docs], bool)
        if not positive.any():
            positive = targets == targets.max()
        first, second = np.flatnonzero(positive), np.flatnonzero(~positive)
        p, n = np.repeat(first, len(second)), np.tile(second, len(first))
        return _Pairs(p, n, targets[p] - targets[n])

    def example(self, candidates: Candidates, pairs: _Pairs, drawn: int) -> Example:
        return taken(candidates, [int(pairs.positive[drawn]), int(pairs.negative[drawn])])


class _OfPairs(Group):
    """A positive and a negative drawn by margin; a query without a pair gives one document of the highest target."""

    relevant: str | None

    @cached_property
    def _positives(self) -> _Positives:
        return _Positives(self.relevant)

    def files(self) -> tuple[str, ...]:
        return () if self.relevant is None else (self.relevant,)

    def check(self, queries: Sequence[str], docs: Sequence[str]) -> None:
        for side, ids, named in (
            ("queries", queries, self._positives.queries),
            ("documents", docs, self._positives.docs),
        ):
            if self.relevant is not None and not any(name in named for name in ids):
                raise DataError(f"names none of the training {side}", where=self.relevant, fix=CHECK_IDS)

    def choose(self, candidates: Candidates, seed: int, epoch: int) -> Example:
        pairs, rng = self._positives.pairs(candidates), generator(seed, "group", epoch, candidates.query)
        if len(pairs.margins):
            return self._positives.example(candidates, pairs, self._drawn(pairs.margins, rng))
        targets = np.asarray(candidates.targets)
        best = np.flatnonzero(targets == targets.max())
        return taken(candidates, [int(best[rng.integers(len(best))])])

    @abstractmethod
    def _drawn(self, margins: np.ndarray, rng: np.random.Generator) -> int:
        """The place of the pair that is drawn, by the margins of all."""


@dataclass(frozen=True)
class MarginBins(_OfPairs):
    """One positive and one negative, balanced over the teacher's margin (TAS-Balanced, arXiv:2104.06967).

    The range of a query's margins is cut into `bins` parts of equal width; a part that has pairs is drawn uniformly,
    then one of its pairs, anew each epoch. So rare margins are drawn as often as frequent ones. Where all margins are
    equal there is one part, and every pair is as likely. The targets of the list are those of the pair: the teacher's.

    A query without a pair gives one document, with the highest target.

    Args:
        bins: h in the paper, 10 in its code.
        relevant: a qrels file that tells the positives (a grade above 0), as teacher scores do not; null: a query's
            documents with the highest target are its positives, the others its negatives.
    """

    bins: int = 10
    relevant: str | None = None

    def __post_init__(self) -> None:
        at_least("MarginBins", "bins", self.bins, 1)

    def _drawn(self, margins: np.ndarray, rng: np.random.Generator) -> int:
        bins = _bins(margins, self.bins)
        filled = np.unique(bins)
        within = np.flatnonzero(bins == filled[rng.integers(len(filled))])
        return int(within[rng.integers(len(within))])


@dataclass(frozen=True)
class HardMargin(_OfPairs):
    """One positive and one negative, drawn uniformly among the pairs whose teacher margin is at most `cutoff`.

    Pairs that the teacher tells apart with ease teach little. A query without a hard pair gives the hardest it has.
    matchmaker names the strategy ``hard-margin``, with its code commented out: there it draws as ``random`` does.

    Args:
        cutoff: on the teacher's scale; 6 in the commented-out code.
        relevant: a qrels file that tells the positives, see `MarginBins`.
    """

    cutoff: float = 6.0
    relevant: str | None = None

    def __post_init__(self) -> None:
        finite("HardMargin", "cutoff", self.cutoff)

    def _drawn(self, margins: np.ndarray, rng: np.random.Generator) -> int:
        hard = np.flatnonzero(margins <= max(self.cutoff, float(margins.min())))
        return int(hard[rng.integers(len(hard))])


def _bins(margins: np.ndarray, bins: int) -> np.ndarray:
    """The part of the range that each margin lies in (int64 [p]); the largest margin lies in the last."""
    low, high = float(margins.min()), float(margins.max())
    lower_edges = low + np.arange(bins) * ((high - low) / bins)
    return np.searchsorted(lower_edges, margins, side="right") - 1
