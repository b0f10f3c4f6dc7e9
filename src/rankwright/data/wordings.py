"""Batches of questions that come in several wordings: one wording of each an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import DataError, RecipeError
from ..randomness import key
from ._checks import CHECK_IDS, given
from .batches import Batches, Documents, EpochPlan, Shuffled
from .query_files import read_topics


@dataclass(frozen=True)
class OneWording(Batches):
    """One query of each sample an epoch, drawn anew; the others stay out of it (SR-DPR's lists of questions).

    Args:
        samples: a file of query id, tab, sample, as `rankwright convert` writes it beside DPR's JSON with several
            questions a record; a query that it does not name is a sample of its own.
        batches: which of the drawn queries travel together.
    """

    samples: str
    batches: Batches = field(default_factory=Shuffled)

    def __post_init__(self) -> None:
        given("OneWording", "samples", self.samples)
        if not isinstance(self.batches, Batches) or isinstance(self.batches, OneWording):
            what = f"batches is {type(self.batches).__name__}"
            raise RecipeError(what, where="OneWording.batches", fix="e.g. batches: {Shuffled: {size: 16}}")

    @cached_property
    def _sample_of(self) -> dict[str, str]:
        return read_topics(self.samples)

    def files(self) -> tuple[str, ...]:
        return (self.samples, *self.batches.files())

    def plan(self, queries: Sequence[str], documents: Documents, *, seed: int, epoch: int) -> EpochPlan:
        wordings: dict[tuple[bool, str], list[int]] = {}
        for row, query in enumerate(queries):
            sample = self._sample_of.get(query)
            wordings.setdefault((sample is None, query if sample is None else sample), []).append(row)
        if all(alone for alone, _ in wordings):
            raise DataError("names none of the training queries", where=self.samples, fix=CHECK_IDS)
        drawn = [
            rows[key(seed, "wording", epoch, sample) % len(rows)] if len(rows) > 1 else rows[0]
            for (_, sample), rows in wordings.items()
        ]
        plan = self.batches.plan(
            [queries[row] for row in drawn], lambda place: documents(drawn[place]), seed=seed, epoch=epoch
        )
        return EpochPlan(np.asarray(drawn, np.int64)[plan.order], plan.offsets)
