"""What the methods' experiments share: commands done once, scores of finished runs over seeds, tables of them."""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
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
from rankwright.types import Qrels

from ..common import RESULTS, machine

TRAIN = "stages.0.train={{learning_rate: {rate}, steps: {steps}, warmup: 0.1, precision: auto}}"
MEASURES = ("nDCG@10", "R@100")


def arguments(name: str, about: str | None, collections: str) -> argparse.ArgumentParser:
    """What every experiment is asked: where it works, of which collections and seeds."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.methods.{name}", description=about)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the collections that are not bundled")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help=f"of {collections}")
    parser.add_argument("--table", action="store_true", help="only the tables, of what is there")
    parser.add_argument("--jobs", type=int, default=2, help="commands at once, one thread each")
    return parser


def command(*words: object) -> list[str]:
    return ["rankwright", *map(str, words)]


def carry_out(words: list[str]) -> None:
    """One command in a process of one thread, unless what it makes is there."""
    if "--folder" in words:
        folder = Path(words[words.index("--folder") + 1])
        made = folder / ("model" if "evaluate=[]" in words else "report.html")
    else:
        made = Path(words[words.index("--out") + 1])
    if made.exists():
        return
    print(shlex.join(words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *words, "--quiet"],
        env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)}\n{done.stdout}")


def trained_run(folder: Path, *, of: str = "") -> Path | None:
    """What a finished run folder's model made of a test collection, whose name begins so."""
    runs = sorted(folder.glob(f"evaluation/{of}*/*.trec"), key=lambda path: path.stem != "trained")
    return runs[0] if runs and (folder / "report.html").exists() else None


@dataclass(frozen=True)
class Cells:
    """Run files by (collection, condition, seed), and the judgements of each collection."""

    runs: dict[tuple[str, str, int], Path]
    tests: dict[str, Qrels]
    measures: tuple[str, ...] = MEASURES

    def scores(self) -> dict[tuple[str, str, int], np.ndarray]:
        """(collection, condition, seed) -> [queries, measures], of the runs that are there."""
        there = {key: path for key, path in self.runs.items() if path.exists()}
        return {key: evaluate(read_run(path), self.tests[key[0]], self.measures).values for key, path in there.items()}


def test_judgements(name: str) -> Qrels:
    return Dataset.open(name, reading=Reading()).qrels("test")


def write_results(name: str, cells: Cells, pairs: Sequence[tuple[str, str]], *, keep: bool = True) -> None:
    """Tables of means over seeds and of paired differences; kept as text and JSON in benchmarks/results."""
    scores = cells.scores()
    means, tests = _means(scores, cells.measures), _differences(scores, pairs)
    heads = [f"{m}: mean (seeds)" for m in cells.measures]
    text = table(["collection", "condition", *heads], [[m["collection"], m["condition"], *m["shown"]] for m in means])
    rows = []
    for test in tests:
        low, high = test["interval"]
        what, interval = f"{test['system']} - {test['baseline']}", f"{low:+.3f} to {high:+.3f}"
        rows.append([test["collection"], what, f"{test['difference']:+.3f}", interval, f"{test['p_holm']:.3f}"])
    text += "\n\n" + table(["collection", cells.measures[0], "difference", "95 % interval", "p (t-test, Holm)"], rows)
    print(text)
    if not keep:
        return
    facts = machine(["transformers"])
    write_json(RESULTS / f"{name}.json", {"means": means, "differences": tests, "machine": facts})
    write_text(RESULTS / f"{name}.txt", text + "\n")


def _means(scores: dict[tuple[str, str, int], np.ndarray], measures: Sequence[str]) -> list[dict[str, Any]]:
    made = []
    for collection, condition in dict.fromkeys((c, d) for c, d, _ in scores):
        seeds = {seed: v.mean(0).tolist() for (c, d, seed), v in scores.items() if (c, d) == (collection, condition)}
        shown = []
        for column in range(len(measures)):
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
