"""Runs compared with a baseline: measured, tested and told as one report, for `rankwright compare`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from . import storage
from .evaluation import Comparison, Evidence, Scores, bootstrap_interval, compare_pairs, per_query_differences, stated
from .evaluation.plots import available, differences_pdf
from .evaluation.report import PairedResult, Report, SystemResult, write_report
from .evaluation.report_tables import render_tables
from .evaluation.significance import Correction, TestName
from .reporting import metrics_json
from .types import Run

_TESTS: dict[TestName, str] = {"t": "paired t-test", "randomisation": "paired randomisation test"}


class Compared(NamedTuple):
    """What came out; the report holds tables, plots and the largest gains and losses."""

    scores: dict[str, Scores]
    comparison: Comparison
    report: Report
    baseline: str


def compare_runs(
    runs: Mapping[str, Run],
    evidence: Evidence,
    measures: Sequence[str],
    *,
    baseline: str,
    collection: str = "",
    test: TestName = "t",
    correction: Correction = "holm",
    level: float = 0.95,
    rounds: int = 10_000,
    seed: int = 0,
    reproduce: str = "",
) -> Compared:
    """Every run measured by the same judgements or answers, and each of the others tested against the baseline.

    Where one query alone is judged there are no tests: it has no spread.

    Args:
        baseline: the name of one of the runs.
        collection: what these are called in the report.
        reproduce: the command that makes the same again.
    """
    ordered = [baseline, *(name for name in runs if name != baseline)]
    scores = {name: evidence.measure(runs[name], measures) for name in ordered}
    pairs = [(baseline, other) for other in ordered[1:]] if len(scores[baseline].queries) > 1 else []
    comparison = compare_pairs(
        scores, pairs, test=test, correction=correction, level=level, rounds=rounds, seed=seed
    )  # fmt: skip
    systems = [_system(name, collection, found, level, rounds, seed) for name, found in scores.items()]
    paired = [
        PairedResult(c.baseline, c.system, c.measure, c.difference, c.interval, c.p, c.p_holm, c.wins, c.ties, c.losses)
        for c in comparison
    ]
    names = scores[baseline].measures
    report = Report(
        title="Comparison of runs",
        subtitle=f"{len(runs)} runs, {len(scores[baseline].queries):,} queries; baseline: {baseline}",
        headline_measure=names[0],
        systems=systems,
        comparisons=paired,
        confidence=level,
        test=_TESTS[test],
        corrected=correction == "holm",
        every_pair=True,
        reproduce=reproduce,
        definitions={collection: f"{stated(names)}."},
    )
    return Compared(scores, comparison, report, baseline)


def _system(name: str, collection: str, scores: Scores, level: float, rounds: int, seed: int) -> SystemResult:
    columns = {measure: scores.column(measure) for measure in scores.measures}
    note = f"{len(scores.missing)} judged queries not answered (count as 0)" if scores.missing else ""
    intervals = {m: bootstrap_interval(v, level=level, rounds=rounds, seed=seed) for m, v in columns.items()}
    return SystemResult(name, collection, "", scores.mean(), intervals, scores.per_query(), note)


def write_comparison(folder: Path, found: Compared) -> None:
    """Fill `folder`: report, tables in LaTeX, all numbers, values per query, a figure for each pair.

    Figures need matplotlib (extra `plots`); without it they are left out.
    """
    write_report(folder, found.report)
    storage.write_text(folder / "tables.tex", render_tables(found.report, "latex") + "\n")
    storage.write_json(folder / "comparison.json", metrics_json(found.scores, found.comparison, per_query=True))
    storage.write_text(folder / "per_query.tsv", _per_query(found.scores))
    measure = found.report.headline_measure
    for number, name in enumerate(list(found.scores)[1:] if available() else [], start=1):
        values = [
            d.difference for d in per_query_differences(found.scores[found.baseline], found.scores[name], measure)
        ]
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60]
        figure = differences_pdf(values, y_label=f"difference in {measure}")
        storage.write_bytes(folder / f"difference-{number}-{slug}.pdf", figure)


def _per_query(scores: Mapping[str, Scores]) -> str:
    """Query, measure, and the value of each system between tabs."""
    first = next(iter(scores.values()))
    lines = ["\t".join(["query", "measure", *scores])]
    for measure in first.measures:
        values = [found.per_query()[measure] for found in scores.values()]
        lines += ["\t".join([q, measure, *(f"{v[q]:.6f}" for v in values)]) for q in first.queries]
    return "\n".join(lines) + "\n"
