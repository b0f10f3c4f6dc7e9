"""Verbs over runs and judgements: evaluate."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from .. import storage
from ..console import out, out_json
from ..data import Reading, read_qrels, read_run
from ..errors import UsageError
from ..outputs import command


def evaluate(given: Namespace) -> None:
    from ..reporting import comparison_table, evaluate_runs, metrics_json

    if len(set(given.runs)) < len(given.runs):
        raise UsageError("the same run is given twice", fix="give each run once")
    if given.out and (not Path(given.out).name or Path(given.out).is_dir()):
        raise UsageError("is a folder, a JSON file is written here", where=given.out, fix="e.g. --out metrics.json")
    reading = Reading(lenient=given.lenient)
    qrels = read_qrels(Path(given.qrels), reading)
    names = _names(given.runs)
    runs = {name: read_run(Path(path), reading) for name, path in zip(names, given.runs)}
    scores, comparison = evaluate_runs(runs, qrels, given.measures)
    result = metrics_json(scores, comparison, per_query=bool(given.out))
    if given.out:
        storage.write_json(given.out, result)
    if given.json:
        return out_json(metrics_json(scores, comparison, per_query=False))
    out(comparison_table(scores, comparison))
    if given.out:
        out(f"\nper query: {given.out}")
    if len(given.runs) == 1:
        again = command("evaluate", "BASELINE.trec", given.runs[0], "--qrels", given.qrels)
        return out(f"\nnext: compare it with another run: {again}")
    measure = next(iter(scores.values())).measures[0]
    best = max(range(len(names)), key=lambda i: scores[names[i]].mean()[measure])
    again = command("evaluate", given.runs[best], "ANOTHER.trec", "--qrels", given.qrels)
    out(f"\nnext: compare others with the best by {measure}: {again}")


def _names(paths: Sequence[str]) -> list[str]:
    """Short names of runs: the file's, or the whole path where two files are called the same."""
    short = [Path(path).name.split(".")[0] for path in paths]
    return [name if short.count(name) == 1 else path for name, path in zip(short, paths)]
