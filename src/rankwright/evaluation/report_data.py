"""What a report is made from: plain numbers and texts, no model, no data set, no run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import UsageError


class RelevantDoc(NamedTuple):
    """A document judged relevant to a query; `title` is what a person recognises it by."""

    doc_id: str
    title: str
    grade: float


class RankedDoc(NamedTuple):
    """A document at one rank of a run; `grade` is None where nobody judged it."""

    doc_id: str
    text: str
    score: float
    grade: float | None = None


class DataCheck(NamedTuple):
    """One fact about the data; a non-empty `warning` says what is wrong with it."""

    label: str
    value: str | int | float
    warning: str = ""


class Timing(NamedTuple):
    """How long a step took (seconds); `reused` means an earlier run did it and this one did not do it again."""

    step: str
    seconds: float
    reused: bool = False


@dataclass(frozen=True)
class SystemResult:
    """How one system did on one split: mean, interval of the mean and value per query for each measure.

    `recall_by_depth` maps a depth k to R@k. `latency` is the time of search per query in seconds, None where nobody
    measured it.
    """

    name: str
    dataset: str
    split: str
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    per_query: Mapping[str, Mapping[str, float]]
    note: str = ""
    recall_by_depth: Mapping[int, float] = field(default_factory=dict)
    latency: float | None = None

    @property
    def place(self) -> str:
        """Data set and split, as said in a sentence."""
        return " ".join(part for part in (self.dataset, self.split) if part)


@dataclass(frozen=True)
class PairedResult:
    """One paired comparison over the same queries; `difference` is system minus baseline.

    `dataset` and `split` are needed only where the same two names were measured on several of them.
    """

    baseline: str
    system: str
    measure: str
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float
    wins: int
    ties: int
    losses: int
    dataset: str = ""
    split: str = ""


@dataclass(frozen=True)
class QueryExample:
    """One query of the leading comparison: its texts, what is relevant, and the top documents before and after."""

    query_id: str
    query: str
    difference: float
    relevant: Sequence[RelevantDoc]
    top_before: Sequence[RankedDoc]
    top_after: Sequence[RankedDoc]


@dataclass(frozen=True)
class Curve:
    """Values over steps (or epochs, or seconds: `x_label` says which)."""

    name: str
    x_label: str
    steps: Sequence[float]
    values: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise UsageError(
                f"curve {self.name!r} has {len(self.steps)} steps but {len(self.values)} values",
                fix="give one value per step",
            )


@dataclass(frozen=True)
class Report:
    """All that `write_report` shows; every part but the first four may be empty.

    The first comparison on `headline_measure` leads: it makes the headline, the per-query plot and the examples.
    `confidence` is the level of all intervals and 1 - `confidence` the level of significance; `test` names the paired
    test that made the p-values, and without `corrected` each stands for itself. With `every_pair` each comparison on
    the headline measure is drawn per query, else the leading one of each group alone. `definitions` says of a place
    (`SystemResult.place`) how its numbers are to be read.

    Raises:
        UsageError: a comparison names something that `systems` lacks, or the headline measure one of the first group.
    """

    title: str
    subtitle: str
    headline_measure: str
    systems: Sequence[SystemResult]
    comparisons: Sequence[PairedResult] = ()
    training: Sequence[Curve] = ()
    validation: Sequence[Curve] = ()
    examples_best: Sequence[QueryExample] = ()
    examples_worst: Sequence[QueryExample] = ()
    data_checks: Sequence[DataCheck] = ()
    timings: Sequence[Timing] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    recipe_yaml: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    reproduce: str = ""
    confidence: float = 0.95
    test: str = "paired test"
    definitions: Mapping[str, str] = field(default_factory=dict)
    corrected: bool = True
    every_pair: bool = False

    def __post_init__(self) -> None:
        seen: set[tuple[str, str, str]] = set()
        for system in self.systems:
            leads = (system.dataset, system.split) == (self.systems[0].dataset, self.systems[0].split)
            if leads and self.headline_measure not in system.means:  # other collections may have measures of their own
                raise UsageError(
                    f"system {system.name!r} has no {self.headline_measure!r}, the report's headline measure",
                    fix=f"choose one of {sorted(system.means)}",
                )
            key = (system.dataset, system.split, system.name)
            if key in seen:
                raise UsageError(f"system {system.name!r} is there twice for {system.dataset} {system.split}".rstrip())
            seen.add(key)
        for comparison in self.comparisons:
            self.pair(comparison)

    def pair(self, comparison: PairedResult) -> tuple[SystemResult, SystemResult]:
        """The (baseline, system) that a comparison is about."""
        found = [
            (baseline, system)
            for baseline in self.systems
            for system in self.systems
            if (baseline.name, system.name) == (comparison.baseline, comparison.system)
            and (baseline.dataset, baseline.split) == (system.dataset, system.split)
            and comparison.dataset in ("", system.dataset)
            and comparison.split in ("", system.split)
            and all(comparison.measure in side.means for side in (baseline, system))
        ]
        if len(found) != 1:
            names = f"{comparison.baseline!r} with {comparison.system!r} by {comparison.measure!r}"
            fix = "name its dataset and split" if found else f"compare two of {[s.name for s in self.systems]}"
            raise UsageError(f"the comparison of {names} fits {len(found)} pairs of systems, not one", fix=fix)
        return found[0]

    @property
    def level(self) -> str:
        """The level of the intervals: ``95%``."""
        return f"{100 * self.confidence:g}%"

    def significant(self, comparison: PairedResult) -> bool:
        """Whether the corrected p-value is below 1 - `confidence`."""
        return comparison.p_holm < 1 - self.confidence

    def groups(self) -> list[list[SystemResult]]:
        """The systems by (dataset, split), in order of first appearance."""
        groups: dict[tuple[str, str], list[SystemResult]] = {}
        for system in self.systems:
            groups.setdefault((system.dataset, system.split), []).append(system)
        return list(groups.values())

    def drawn(self, group: Sequence[SystemResult]) -> list[PairedResult]:
        """The comparisons within `group` on the headline measure that are shown per query."""
        found = [c for c in self.comparisons if c.measure == self.headline_measure and self.pair(c)[1] in group]
        return found if self.every_pair else found[:1]

    def headline(self) -> PairedResult | None:
        """The first comparison on the headline measure."""
        return next((c for c in self.comparisons if c.measure == self.headline_measure), None)
