"""Batches from several parts of the queries, each drawn with its own weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import DataError, RecipeError
from ..progress import say
from ..randomness import generator, permutation
from ._checks import CHECK_IDS, at_least, finite, given
from .batches import Batches, Documents, EpochPlan, apart, planned, slices
from .query_files import read_query_ids


@dataclass(frozen=True)
class Part:
    """Some of the queries, and how often they are drawn.

    Args:
        queries: a file of query ids: one a line, or any file of queries or judgements that begins with them.
        weight: relative to the other parts'; null: its number of queries.
    """

    queries: str
    weight: float | None = None

    def __post_init__(self) -> None:
        given("Part", "queries", self.queries)
        if self.weight is not None:
            finite("Part", "weight", self.weight, above=0)


@dataclass(frozen=True)
class Mixed(Batches):
    """Queries of several parts, a part drawn with probability proportional to ``weight ** (1 / temperature)``.

    An epoch has as many batches as the queries of all parts fill. A part that is drawn more often than it has queries
    begins again, in a new random order; of one that is drawn less often some queries wait for another epoch. A query
    is never twice in a batch, nor a document (see `Shuffled`, also for the small last batches).

    Args:
        parts: no query may be in two; one that is in none is left out.
        size: queries of one batch, over all processes.
        temperature: 1 takes weights as they are; the higher, the more alike the parts.
        homogeneous: every batch from one part, so that its negatives are of the same kind; else every place of a
            batch draws its part.
        repeats: let a document be in several lists of a batch.
        drop_last: leave out batches with fewer than `size` queries.
    """

    parts: tuple[Part, ...]
    size: int = 32
    temperature: float = 1.0
    homogeneous: bool = True
    repeats: bool = False
    drop_last: bool = False

    def __post_init__(self) -> None:
        at_least("Mixed", "size", self.size, 1)
        finite("Mixed", "temperature", self.temperature, above=0)
        if not self.parts:
            raise RecipeError("parts is empty", where="Mixed.parts", fix="e.g. parts: [{queries: a.tsv, weight: 2}]")

    @cached_property
    def _part_of(self) -> dict[str, int]:
        part_of: dict[str, int] = {}
        for number, part in enumerate(self.parts):
            for query in read_query_ids(part.queries):
                if part_of.setdefault(query, number) != number:
                    other = self.parts[part_of[query]].queries
                    what = f"the query {query!r} is also in {other}"
                    raise DataError(what, where=part.queries, fix="keep it in one part")
        return part_of

    def files(self) -> tuple[str, ...]:
        return tuple(part.queries for part in self.parts)

    def plan(self, queries: Sequence[str], documents: Documents, *, seed: int, epoch: int) -> EpochPlan:
        rows = self._rows(queries, remark=epoch == 0)
        total = sum(map(len, rows))
        chances = self._chances([len(part) for part in rows])
        rng = generator(seed, "parts", epoch)
        if self.homogeneous:
            streams = [self._batches_of(i, part, documents, seed, epoch) for i, part in enumerate(rows)]
            drawn = rng.choice(len(rows), -(-total // self.size), p=chances)
            batches = [next(streams[part]) for part in drawn.tolist()]
        else:
            places = [self._queries_of(i, part, seed, epoch) for i, part in enumerate(rows)]
            order = [next(places[part]) for part in rng.choice(len(rows), total, p=chances).tolist()]
            batches = apart(order, self._kept_apart(documents), self.size)
        return planned("Mixed", batches, self.size, queries=total, drop_last=self.drop_last)

    def _rows(self, queries: Sequence[str], *, remark: bool) -> list[np.ndarray]:
        rows: list[list[int]] = [[] for _ in self.parts]
        for row, query in enumerate(queries):
            if (part := self._part_of.get(query)) is not None:
                rows[part].append(row)
        for part, own in zip(self.parts, rows):
            if not own:
                raise DataError("names none of the training queries", where=part.queries, fix=CHECK_IDS)
        absent = len(queries) - sum(map(len, rows))
        if absent and remark:
            say(f"{absent:,} of {len(queries):,} queries are in no part and are left out")
        return [np.array(own, np.int64) for own in rows]

    def _chances(self, sizes: list[int]) -> np.ndarray:
        """The probability of each part (float64 [parts])."""
        weights = [size if part.weight is None else part.weight for part, size in zip(self.parts, sizes)]
        logits = np.log(np.array(weights, np.float64)) / self.temperature
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()

    def _passes(self, part: int, rows: np.ndarray, seed: int, epoch: int) -> Iterator[list[int]]:
        """All rows of a part in a random order, again and again."""
        turn = 0
        while True:
            yield rows[permutation(len(rows), seed, "batches", epoch, part, turn)].tolist()
            turn += 1

    def _queries_of(self, part: int, rows: np.ndarray, seed: int, epoch: int) -> Iterator[int]:
        for order in self._passes(part, rows, seed, epoch):
            yield from order

    def _batches_of(
        self, part: int, rows: np.ndarray, documents: Documents, seed: int, epoch: int
    ) -> Iterator[list[int]]:
        for order in self._passes(part, rows, seed, epoch):
            made = slices(order, self.size) if self.repeats else apart(order, documents, self.size)
            if self.drop_last:  # here and not of the whole: a part would lose weight
                made = [batch for batch in made if len(batch) == self.size]
            if not made:
                what = f"the {len(order):,} queries of {self.parts[part].queries} fill no batch of {self.size}"
                raise RecipeError(what, where="Mixed", fix="lower size or leave drop_last out")
            yield from made

    def _kept_apart(self, documents: Documents) -> Documents:
        """What two queries of a batch may not share: documents, and themselves (as negative numbers)."""
        if self.repeats:
            return lambda row: [-1 - row]
        return lambda row: [-1 - row, *documents(row)]
