"""What the methods' experiments share: training settings, scores of finished runs over seeds, tables with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankwright.console import table
from rankwright.data import Dataset, Reading
from rankwright.data.formats import read_run
from rankwright.evaluation import evaluate
from rankwright.evaluation.significance import bootstrap_interval, holm, paired_t
from rankwright.storage import write_json, write_text

from ..common import RESULTS, machine

TRAIN = "stages.0.train={{learning_rate: {rate}, steps: {steps}, warmup: 0.1, precision: auto}}"
MEASURES = ("nDCG@10", "R@100")


@dataclass(frozen=True)
class Cells:
    """Run folders by (collection, condition, seed), and the data set that each collection is tested on."""

    folders: dict[tuple[str, str, int], Path]
    tests: dict[str, str]
    measures: tuple[str, ...] = MEASURES  # the first is the one that is tested

    def scores(self) -> dict[tuple[str, str, int], np.ndarray]:
        """(collection, condition, seed) -> [queries, measures], of the finished runs."""
        made = {}
        for (collection, condition, seed), folder in self.folders.items():
            runs = sorted(folder.glob("evaluation/*/*.trec"), key=lambda path: path.stem != "trained")
            if runs and (folder / "report.html").exists():
                qrels = Dataset.open(self.tests[collection], reading=Reading()).qrels("test")
                made[collection, condition, seed] = evaluate(read_run(runs[0]), qrels, self.measures).values
        return made


def write_results(name: str, cells: Cells, pairs: Sequence[tuple[str, str]]) -> None:
    """Tables of means over seeds and of paired differences, as text and JSON in benchmarks/results."""
    scores = cells.scores()
    means, tests = _means(scores, len(cells.measures)), _differences(scores, pairs)
    heads = [f"{m}: mean (seeds)" for m in cells.measures]
    text = table(["collection", "condition", *heads], [[m["collection"], m["condition"], *m["shown"]] for m in means])
    rows = []
    for test in tests:
        low, high = test["interval"]
        what, interval = f"{test['system']} - {test['baseline']}", f"{low:+.3f} to {high:+.3f}"
        rows.append([test["collection"], what, f"{test['difference']:+.3f}", interval, f"{test['p_holm']:.3f}"])
    text += "\n\n" + table(["collection", cells.measures[0], "difference", "95 % interval", "p (t-test, Holm)"], rows)
    print(text)
    facts = machine(["transformers"])
    write_json(RESULTS / f"{name}.json", {"means": means, "differences": tests, "machine": facts})
    write_text(RESULTS / f"{name}.txt", text + "\n")


def _means(scores: dict[tuple[str, str, int], np.ndarray], measures: int) -> list[dict[str, Any]]:
    made = []
    for collection, condition in dict.fromkeys((c, d) for c, d, _ in scores):
        seeds = {seed: v.mean(0).tolist() for (c, d, seed), v in scores.items() if (c, d) == (collection, condition)}
        shown = []
        for column in range(measures):
            values = [v[column] for v in seeds.values()]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            shown.append(f"{statistics.mean(values):.3f}{spread}")
        made.append({"collection": collection, "condition": condition, "seeds": seeds, "shown": shown})
    return made


def _differences(
    scores: dict[tuple[str, str, int], np.ndarray], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Of the first measure, each query's mean over the seeds that both have: what the choice of queries leaves open."""
    made = []
    for collection in dict.fromkeys(c for c, _, _ in scores):
        for baseline, system in pairs:
            seeds = {which: [s for c, d, s in scores if (c, d) == (collection, which)] for which in (baseline, system)}
            if all(seeds.values()):
                a, b = (np.mean([scores[collection, w, s][:, 0] for s in some], axis=0) for w, some in seeds.items())
                test = paired_t(a, b)
                made.append(
                    {"collection": collection, "baseline": baseline, "system": system, "p": test.p,
                     "difference": test.difference, "interval": list(bootstrap_interval(b - a))}
                )  # fmt: skip
    for row, p in zip(made, holm([row["p"] for row in made])):
        row["p_holm"] = p
    return made
