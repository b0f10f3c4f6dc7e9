"""Which kind of step comes when: parts of a stage in turn, each with its own batches and objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..types import Batch
from .objective import Objective
from .settings import Train


class Batches(Protocol):
    """What the loop needs of a loader: batch k as a pure function of k (`rankwright.data.Loader` has it)."""

    def steps_per_epoch(self, epoch: int) -> int: ...

    def iterate(self, start: int, stop: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Part:
    """One kind of step.

    Args:
        name: in the log, where there are several.
        seed: of its dropout.
        repeats: how many such steps follow one another in a cycle.
        accumulate: batches of one step.
    """

    name: str
    batches: Batches
    objective: Objective
    seed: int = 0
    repeats: int = 1
    accumulate: int = 1


class Cycle:
    """An endless sequence of steps: `repeats` of the first part, then of the second ..., and from the start again.

    Step number -> (part, its own step number) is a pure function, so a run goes on in the middle of a cycle.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        assert parts, "a cycle of nothing"
        self.parts = tuple(parts)
        self._ends = np.cumsum([part.repeats for part in parts]).tolist()

    def __len__(self) -> int:
        """Steps of one cycle."""
        return self._ends[-1]

    def at(self, step: int) -> tuple[int, int]:
        """(number of the part, how many of its steps came before) of a step from 0."""
        within = step % len(self)
        number = next(i for i, end in enumerate(self._ends) if within < end)
        return number, self.before(number, step)

    def before(self, number: int, step: int) -> int:
        """How many of the first `step` steps are a part's."""
        cycles, within = divmod(step, len(self))
        repeats = self.parts[number].repeats
        begin = self._ends[number] - repeats
        return cycles * repeats + min(max(within - begin, 0), repeats)

    def total(self, settings: Train) -> int:
        """Optimizer steps of all parts together; epochs are the first part's, in whole cycles where there are several.

        Raises:
            DataError: an epoch without a batch.
        """
        for part in self.parts:
            if part.batches.steps_per_epoch(0) < 1:
                fix = "give a smaller batch size or more data, or drop_last: false"
                raise DataError("an epoch has no batch", where=part.name or None, fix=fix)
        first = self.parts[0]
        steps = settings.total_steps(first.batches.steps_per_epoch)
        if settings.steps is not None or len(self.parts) == 1:
            return steps
        return -(-steps // first.repeats) * len(self)

    def supplies(self, start: int, total: int) -> list[Iterator[Batch]]:
        """Per part its batches from step `start` up to the end."""
        return [
            part.batches.iterate(*(self.before(number, step) * part.accumulate for step in (start, total)))
            for number, part in enumerate(self.parts)
        ]
