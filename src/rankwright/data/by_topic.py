"""Batches of queries on one topic, or a few, as TAS composes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ..errors import DataError, RecipeError
from ..progress import say
from ..randomness import generator
from ._checks import CHECK_IDS, at_least, given, one_of
from .batches import Batches, Documents, EpochPlan, planned
from .query_files import read_topics


@dataclass(frozen=True)
class ByTopic(Batches):
    """Every batch of queries of one topic, or of a few (topic-aware sampling, arXiv:2104.06967).

    Topics are drawn anew for every batch, so a query may be in several batches of an epoch, or in none; an epoch is as
    many batches as the queries would fill (whole ones, at least one). A query that the file does not name is left out.

    Variants: ``paper`` draws the topics of a batch without replacement, and no query or document is twice in a batch,
    which is why it is the default; where a topic has too few queries a further one fills the batch up. ``code`` is
    the authors' loader: topics are drawn with replacement until the batch is full, the last one cut, so that a query
    may be twice in a batch (with the same list) and documents may repeat.

    Args:
        topics: a file made by `rankwright topics`: query id, tab, topic.
        size: queries of one batch, over all processes.
        per_batch: topics of one batch; each gives ``size // per_batch`` queries.
        variant: ``paper`` or ``code``.
        by_size: draw a topic with a probability that goes with its number of queries, so that every query is as likely;
            else every topic is as likely, as in paper and code.
        repeats: let a document be in several lists of a batch.
        drop_last: leave out batches with fewer than `size` queries.
    """

    topics: str
    size: int = 32
    per_batch: int = 1
    variant: Literal["paper", "code"] = "paper"
    by_size: bool = False
    repeats: bool = False
    drop_last: bool = False

    def __post_init__(self) -> None:
        given("ByTopic", "topics", self.topics)
        at_least("ByTopic", "size", self.size, 1)
        at_least("ByTopic", "per_batch", self.per_batch, 1)
        one_of("ByTopic", "variant", self.variant, known=("paper", "code"))
        if self.per_batch > self.size:
            what = f"{self.per_batch} topics in a batch of {self.size} queries"
            raise RecipeError(what, where="ByTopic.per_batch", fix="lower per_batch")

    @cached_property
    def _topic_of(self) -> dict[str, str]:
        return read_topics(self.topics)

    def files(self) -> tuple[str, ...]:
        return (self.topics,)

    def plan(self, queries: Sequence[str], documents: Documents, *, seed: int, epoch: int) -> EpochPlan:
        members = self._members(queries, remark=epoch == 0)
        sizes = np.array([len(rows) for rows in members], np.float64)
        if self.variant == "paper" and self.per_batch > len(members):
            what = f"a batch has {self.per_batch} topics, {self.topics} has {len(members)}"
            raise RecipeError(what, where="ByTopic.per_batch", fix="lower per_batch, or make more topics")
        weights = sizes / sizes.sum() if self.by_size else np.full(len(sizes), 1 / len(sizes))
        compose = self._as_paper if self.variant == "paper" else self._as_code
        batches: list[list[int]] = []
        for i in range(max(1, int(sizes.sum()) // self.size)):
            batches.append(compose(members, weights, documents, generator(seed, "batches", epoch, i)))
        return planned("ByTopic", batches, self.size, queries=int(sizes.sum()), drop_last=self.drop_last)

    def _members(self, queries: Sequence[str], *, remark: bool) -> list[np.ndarray]:
        """The query rows of each topic that has any."""
        members: dict[str, list[int]] = {}
        for row, query in enumerate(queries):
            if (topic := self._topic_of.get(query)) is not None:
                members.setdefault(topic, []).append(row)
        if not members:
            fix = f"cluster the queries that are trained on: rankwright topics DATA --split ...; {CHECK_IDS}"
            raise DataError("names none of the training queries", where=self.topics, fix=fix)
        absent = len(queries) - sum(map(len, members.values()))
        if absent and remark:
            say(f"{absent:,} of {len(queries):,} queries have no topic in {self.topics} and are left out")
        return [np.array(members[topic], np.int64) for topic in sorted(members)]

    def _as_paper(
        self, members: list[np.ndarray], weights: np.ndarray, documents: Documents, rng: np.random.Generator
    ) -> list[int]:
        # the smallest of exponential times at these rates first: drawing one after the other without replacement
        order = np.argsort(rng.exponential(size=len(weights)) / weights, kind="stable")
        batch: list[int] = []
        within: set[int] = set()
        for topic in order.tolist():
            room = min(self.size // self.per_batch, self.size - len(batch))
            for row in rng.permutation(members[topic]).tolist():
                if room == 0:
                    break
                if not self.repeats:
                    docs = documents(row)
                    if not within.isdisjoint(docs):
                        continue
                    within.update(docs)
                batch.append(row)
                room -= 1
            if len(batch) == self.size:
                break
        return batch

    def _as_code(
        self, members: list[np.ndarray], weights: np.ndarray, documents: Documents, rng: np.random.Generator
    ) -> list[int]:
        upper = np.cumsum(weights)
        batch: list[int] = []
        while len(batch) < self.size:
            drawn = np.searchsorted(upper, rng.random() * upper[-1], side="right")
            rows = members[min(int(drawn), len(members) - 1)]
            if self.size // self.per_batch < len(rows):  # else all of them, in their order
                rows = rng.choice(rows, self.size // self.per_batch, replace=False)
            batch += rows.tolist()
        return batch[: self.size]
