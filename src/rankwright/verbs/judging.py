"""Verbs over runs and judgements: evaluate, compare, fuse."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .. import storage
from ..console import out, out_json
from ..data import Reading, read_qrels, read_run, write_run
from ..errors import UsageError
from ..outputs import command, new_file, new_folder
from ..progress import say
from ..types import Run
from .answering import (
    asked_measures,
    evidence_of,
    named_evidence,
    require_evidence,
    require_one_retrieved,
    write_contexts,
)


def evaluate(given: Namespace) -> None:
    from ..reporting import comparison_table, evaluate_runs, metrics_json

    _require_different(given.runs)
    if given.out and (not Path(given.out).name or Path(given.out).is_dir()):
        raise UsageError("is a folder, a JSON file is written here", where=given.out, fix="e.g. --out metrics.json")
    reading = Reading(lenient=given.lenient)
    require_evidence(given)
    require_one_retrieved(given)
    names, measures = _names(given.runs), asked_measures(given)
    runs, dropped = _runs(given, reading)
    depth = given.contexts if given.retrieved else 1
    evidence, questions = evidence_of(given, runs, measures, reading, depth=depth)
    scores, comparison = evaluate_runs(runs, evidence, measures)
    if given.retrieved:
        write_contexts(given, next(iter(runs.values())), evidence, questions, measures)
    facts = {"dropped_self": dropped} if given.drop_self else {}
    if given.out:
        storage.write_json(given.out, metrics_json(scores, comparison, per_query=True) | facts)
    if given.json:
        return out_json(metrics_json(scores, comparison, per_query=False) | facts)
    out(comparison_table(scores, comparison))
    _say_dropped(given, dropped)
    if given.out:
        out(f"\nper query: {given.out}")
    if given.retrieved:
        out(f"\nretrieved passages: {given.retrieved}")
    if len(given.runs) == 1:
        again = command("evaluate", "BASELINE.trec", given.runs[0], *named_evidence(given))
        return out(f"\nnext: compare it with another run: {again}")
    measure = next(iter(scores.values())).measures[0]
    best = max(range(len(names)), key=lambda i: scores[names[i]].mean()[measure])
    again = command("evaluate", given.runs[best], "ANOTHER.trec", *named_evidence(given))
    out(f"\nnext: compare others with the best by {measure}: {again}")


def compare(given: Namespace) -> None:
    from ..comparing import compare_runs, write_comparison
    from ..evaluation.plots import available
    from ..evaluation.report_tables import render_tables
    from ..reporting import metrics_json

    _require_different(given.runs)
    require_evidence(given)
    if len(given.runs) < 2:
        again = command("evaluate", given.runs[0], *named_evidence(given))
        raise UsageError("one run has nothing to be compared with", fix=f"give two or more, or measure it: {again}")
    folder = None if given.out is None else new_folder(given.out)
    names = dict(zip(_names(given.runs), given.runs))
    baseline = given.baseline or next(iter(names))
    baseline = next((name for name, path in names.items() if baseline in (name, path)), None)
    if baseline is None:
        raise UsageError(f"no run is called {given.baseline!r}", fix=f"choose from {', '.join(names)}")
    reading = Reading(lenient=given.lenient)
    runs, dropped = _runs(given, reading)
    measures = asked_measures(given)
    evidence, _ = evidence_of(given, runs, measures, reading)
    found = compare_runs(
        runs, evidence, measures, baseline=baseline,
        collection=Path(given.qrels or given.questions).name.split(".")[0],
        test="t" if given.test == "t-test" else "randomisation", correction=given.correction, level=given.level,
        rounds=given.rounds, seed=given.seed,
    )  # fmt: skip
    if folder is not None:
        with storage.publish(folder, "comparison", meta={"runs": names, "evidence": named_evidence(given)}) as draft:
            write_comparison(draft.path, found)
    if given.json:
        return out_json(metrics_json(found.scores, found.comparison, per_query=False))
    out(render_tables(found.report, given.format))
    tell = out if given.format == "text" else say  # else stdout is what a file is made of
    _say_dropped(given, dropped, tell)
    if folder is not None:
        there = sorted(path.name for path in folder.iterdir() if path.name != storage.MANIFEST)
        tell(f"\ncomparison: {folder}  ({', '.join(there)})")
        if not available():
            tell("no figures: they need matplotlib (pip install 'rankwright[plots]')")
    if folder is None:
        words = ["compare", *given.runs, *named_evidence(given), "--out", "comparison"]
        return tell(f"\nnext: report, LaTeX tables, figures and values per query: {command(*words)}")
    return tell(
        f"next:       open {folder / 'report.html'}, or fuse the runs: {command('fuse', *given.runs, '--out', 'F')}"
    )


def _say_dropped(given: Namespace, dropped: Mapping[str, int], tell: Callable[[str], None] = out) -> None:
    if given.drop_self:
        counts = ", ".join(f"{count:,} from {name}" for name, count in dropped.items())
        tell(f"left out, because they bear their query's id: {counts}")


def fuse(given: Namespace) -> None:
    from ..search import Fuse, fuse, tune_fusion

    _require_different(given.runs)
    if given.method != "rrf" and given.rrf_k is not None:
        raise UsageError(f"{given.method} has no k", fix="leave --rrf-k out, or choose --method rrf")
    if given.tune and (given.rrf_k is not None or (given.weights and given.method != "rrf")):
        raise UsageError("--tune chooses what is given already", fix="leave out --tune, or --weights and --rrf-k")
    weights = None if given.weights is None else tuple(given.weights)
    spec = Fuse(given.method, given.norm, weights, 60 if given.rrf_k is None else given.rrf_k)
    path, reading = new_file(given.out), Reading(lenient=given.lenient)
    runs = [read_run(Path(name), reading) for name in given.runs]
    asked = [set(run.queries) for run in runs]
    if partly := len(set.union(*asked)) - len(set.intersection(*asked)):
        say(f"{partly:,} queries are not in every run: each is fused from those that have it")
    tuned = (
        tune_fusion(runs, read_qrels(Path(given.tune), reading), spec, measure=given.measure) if given.tune else None
    )
    spec = tuned.spec if tuned else spec
    fused = fuse(runs, spec, depth=given.depth)
    write_run(path, fused, tag="fused")
    if given.json:
        chosen = {"method": spec.method, "norm": spec.norm, "weights": spec.weights, "k": spec.k}
        return out_json({"run": given.out, "queries": len(fused.queries), "documents": len(fused), **chosen})
    out(f"fused: {spec}")
    if tuned:
        usual = next(iter(tuned.tried.values()))
        found = f"{given.measure} {tuned.value:.4f} on {given.tune}, the best of {len(tuned.tried)} settings"
        out(f"tuned: {found} (the usual one: {usual:.4f}); measure it on other queries")
    out(f"run:   {given.out}  ({len(fused.queries):,} queries, {len(fused):,} documents)")
    out(f"next:  {command('evaluate', *given.runs, given.out, '--qrels', 'TEST_QRELS')}")


def _runs(given: Namespace, reading: Reading) -> tuple[dict[str, Run], dict[str, int]]:
    """The runs by short name, and how many documents with their query's own id were left out of each."""
    from ..search import without_self

    runs = {name: read_run(Path(path), reading) for name, path in zip(_names(given.runs), given.runs)}
    found = {name: len(run) for name, run in runs.items()}
    if given.drop_self:
        runs = {name: without_self(run) for name, run in runs.items()}
    return runs, {name: found[name] - len(run) for name, run in runs.items()}


def _require_different(runs: Sequence[str]) -> None:
    if len(set(runs)) < len(runs):
        raise UsageError("the same run is given twice", fix="give each run once")


def _names(paths: Sequence[str]) -> list[str]:
    """Short names of runs: the file's, or the whole path where two files are called the same."""
    short = [Path(path).name.split(".")[0] for path in paths]
    return [name if short.count(name) == 1 else path for name, path in zip(short, paths)]
