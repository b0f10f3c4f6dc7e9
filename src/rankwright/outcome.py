"""What a recipe came to: the runs of each test collection by system, the model, and what was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .data import Dataset
from .evaluation import Evidence
from .ledger import StepRecord
from .plan import Evaluation, Recipe
from .types import Run

if TYPE_CHECKING:
    from .models import Ranker

SYSTEMS = {
    "first": "first stage", "bm25": "BM25", "start": "before training", "trained": "after training",
    "fused": "fused with BM25",
}  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """The runs of one test collection, by system, in the order in which they are reported.

    Attributes:
        labels: what the report calls data set and split; no two collections of a recipe have the same.
        latency: system -> seconds per query, encoding of the queries included, when all were searched together.
    """

    evaluation: Evaluation
    labels: tuple[str, str]
    dataset: Dataset
    evidence: Evidence
    runs: Mapping[str, Run]
    latency: Mapping[str, float]
    folder: Path

    @property
    def place(self) -> str:
        """The collection's name in files and tables."""
        return "-".join(self.labels)


@dataclass(frozen=True)
class Outcome:
    """What a recipe came to; `start` is the ranker that it began with, trained meanwhile: its lengths still hold."""

    recipe: Recipe
    folder: Path
    model: Path | None
    evaluated: tuple[Evaluated, ...]
    steps: tuple[StepRecord, ...]
    negatives: Mapping[str, str]
    start: Ranker
