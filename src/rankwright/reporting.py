"""From runs to numbers people read: measures and tests of an outcome, its tables, metrics.json and the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import recipe, storage
from .console import table
from .data import Dataset, Judged
from .doctor import audit_dataset
from .errors import ArtefactError
from .evaluation import (
    Comparison,
    Evidence,
    Scores,
    bootstrap_interval,
    compare_pairs,
    has_answer,
    parse,
    per_query_differences,
    stated,
)
from .evaluation.report import (
    Curve,
    DataCheck,
    PairedResult,
    QueryExample,
    RankedDoc,
    RelevantDoc,
    Report,
    SystemResult,
    Timing,
    write_report,
)
from .ledger import StepRecord
from .naming import run_folder
from .pipeline import SYSTEMS, Evaluated, Outcome
from .plan import Evaluation, Recipe
from .progress import duration
from .types import Run

_EXAMPLES, _TOP, _SNIPPET = 5, 5, 220
_DEPTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def evaluate_runs(
    runs: Mapping[str, Run], evidence: Evidence, measures: Sequence[str]
) -> tuple[dict[str, Scores], Comparison]:
    """Every run measured, and each of the others compared with the first."""
    scores = {name: evidence.measure(run, measures) for name, run in runs.items()}
    first, *others = scores
    return scores, _compared(scores, [(first, other) for other in others])


def _compared(scores: Mapping[str, Scores], pairs: Sequence[tuple[str, str]]) -> Comparison:
    """Paired tests; none where one query alone is judged, for it has no spread to test against."""
    enough = all(len(found.queries) > 1 for found in scores.values())
    return compare_pairs(scores, pairs if enough else [])


def metrics_json(scores: Mapping[str, Scores], comparison: Comparison, *, per_query: bool) -> dict[str, Any]:
    """What metrics.json holds; `per_query` adds every query's values."""
    systems = {name: found.to_json() for name, found in scores.items()}
    if not per_query:
        systems = {name: {k: v for k, v in s.items() if k != "per_query"} for name, s in systems.items()}
    measures = next(iter(scores.values())).measures
    definitions = {name: parse(name)[0].definition for name in measures}
    return {"systems": systems, "comparison": comparison.to_json(), "definitions": definitions}


def comparison_table(scores: Mapping[str, Scores], comparison: Comparison) -> str:
    """Means by system, then differences with interval and p."""
    measures = next(iter(scores.values())).measures
    rows = [[name, *(f"{found.mean()[m]:.4f}" for m in measures)] for name, found in scores.items()]
    parts = [table(["system", *measures], rows), stated(measures)]
    for name, found in scores.items():
        if found.missing:
            answered = ", ".join(f"{m} {v:.4f}" for m, v in found.mean_of_answered().items())
            parts.append(f"{name}: {len(found.missing)} judged queries are not in the run and count as 0")
            parts.append(f"  over the answered queries alone: {answered}")
    if len(comparison):
        parts += ["", difference_table(comparison)]
    return "\n".join(parts)


def difference_table(comparison: Comparison) -> str:
    """One line a comparison: difference, interval, p, wins and losses."""
    rows = [
        [f"{c.system} - {c.baseline}", c.measure, f"{c.difference:+.4f}",
         f"[{c.interval[0]:+.4f}, {c.interval[1]:+.4f}]", _p(c.p), _p(c.p_holm), f"{c.wins}/{c.ties}/{c.losses}"]
        for c in comparison
    ]  # fmt: skip
    level = f"{100 * comparison.level:g}% interval"
    return table(["paired difference", "measure", "mean", level, "p", "p (Holm)", "win/tie/loss"], rows)


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


# --- a recipe's outcome --------------------------------------------------------------------------


def conclude(outcome: Outcome) -> tuple[Path, dict[str, dict[str, Scores]]]:
    """Measure, compare, write metrics.json per collection and the report; the report's path and all scores."""
    scores: dict[str, dict[str, Scores]] = {}
    comparisons: dict[str, Comparison] = {}
    for found in outcome.evaluated:
        place = found.place
        scores[place] = {n: found.evidence.measure(run, found.evaluation.measures) for n, run in found.runs.items()}
        comparisons[place] = _compared(scores[place], _pairs(list(scores[place])))
        result = metrics_json(scores[place], comparisons[place], per_query=True)
        result |= {"drop_self": True} if found.evaluation.drop_self else {}
        storage.write_json(found.folder / "metrics.json", result)
    path, _ = write_report(outcome.folder, _report(outcome, scores, comparisons))
    return path, scores


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    """What was trained with what it started from first, then with the others."""
    trained = SYSTEMS["trained"]
    if trained in names:
        others = sorted((n for n in names if n != trained), key=lambda n: n != SYSTEMS["start"])
        return [(other, trained) for other in others]
    return [(names[0], other) for other in names[1:]]


def summary(
    scores: Mapping[str, Mapping[str, Scores]], steps: Sequence[StepRecord], *, model: Path | None, report: Path
) -> str:
    """The table that `run` and `quickstart` end with."""
    parts: list[str] = []
    for place, systems in scores.items():
        measures = next(iter(systems.values())).measures
        rows = [[name, *(f"{found.mean()[m]:.3f}" for m in measures)] for name, found in systems.items()]
        parts += [table([place, *measures], rows), ""]
        comparison = _compared(systems, _pairs(list(systems)))
        if len(comparison):
            parts += [difference_table(comparison), ""]
    rows = [[s.name, duration(s.seconds), "reused" if s.reused else ""] for s in steps]
    done = sum(s.seconds for s in steps if not s.reused)
    parts += [table(["step", "time", ""], [*rows, ["all steps of this session", duration(done), ""]]), ""]
    if model:
        parts.append(f"model:  {model}")
    parts.append(f"report: {report}")
    if model:
        parts.append(f"next:   {shlex.join(['rankwright', 'export', str(model), '--verify'])}")
    return "\n".join(parts)


def _report(outcome: Outcome, scores: dict[str, dict[str, Scores]], comparisons: dict[str, Comparison]) -> Report:
    systems, paired = [], []
    for found in outcome.evaluated:
        place, labels = found.place, found.labels
        systems += [_system(name, found, s, labels) for name, s in scores[place].items()]
        paired += [
            PairedResult(c.baseline, c.system, c.measure, c.difference, c.interval, c.p, c.p_holm,
                         c.wins, c.ties, c.losses, *labels)
            for c in comparisons[place]
        ]  # fmt: skip
    best, worst = _examples(outcome, scores)
    checks, warnings = _data_checks(outcome)
    training, validation, damaged = _curves(outcome.folder)
    first = outcome.evaluated[0] if outcome.evaluated else None
    return Report(
        title=outcome.recipe.name or outcome.folder.name,
        subtitle=_subtitle(outcome.recipe),
        headline_measure=str(next(iter(scores[next(iter(scores))].values())).measures[0]) if first else "",
        systems=systems,
        comparisons=paired,
        training=training,
        validation=validation,
        examples_best=best,
        examples_worst=worst,
        data_checks=checks,
        timings=[Timing(s.name, s.seconds, s.reused) for s in outcome.steps],
        environment=storage.read_json(outcome.folder / "environment.json"),
        recipe_yaml=recipe.dump(outcome.recipe),
        paths={"run folder": str(outcome.folder), **({"model": str(outcome.model)} if outcome.model else {})},
        warnings=[*damaged, *warnings],
        reproduce=_command(outcome),
        test="paired t-test",
        definitions={" ".join(e.labels): _definitions(e.evaluation) for e in outcome.evaluated},
    )


def _definitions(evaluation: Evaluation) -> str:
    """How the numbers of one collection are to be read."""
    notes = " Documents that bear the query's own id are left out." if evaluation.drop_self else ""
    pooled = evaluation.rerank is not None and evaluation.rerank.first == "pool"
    notes += " Each query's own pool is ranked, not the corpus." if pooled else ""
    notes += f" The model is used otherwise than it was trained: {evaluation.use.name}." if evaluation.use else ""
    return f"{stated(evaluation.measures)}; of the first {evaluation.depth:,} documents per query.{notes}"


def _command(outcome: Outcome) -> str:
    """What brings this very run folder up to date again, from wherever it is called."""
    folder = outcome.folder.absolute()
    named = run_folder(outcome.recipe) == folder
    return shlex.join(["rankwright", "run", str(folder / "recipe.yaml"), *([] if named else ["--folder", str(folder)])])


def _subtitle(plan: Recipe) -> str:
    backbone = getattr(plan.model, "backbone", type(plan.model).__name__)
    return f"{type(plan.model).__name__} from {backbone}, {len(plan.stages)} training stage(s), seed {plan.seed}"


def _system(name: str, found: Evaluated, scores: Scores, labels: tuple[str, str]) -> SystemResult:
    depths = [depth for depth in _DEPTHS if depth <= found.evaluation.depth]
    asked = [f"R@{depth}" for depth in depths] if found.evidence.qrels is not None else []
    recall = found.evidence.measure(found.runs[name], asked).mean() if asked else {}
    note = f"{len(scores.missing)} judged queries not answered (count as 0)" if scores.missing else ""
    return SystemResult(
        name, *labels,
        means=scores.mean(),
        intervals={m: bootstrap_interval(scores.column(m)) for m in scores.measures},
        per_query=scores.per_query(),
        note=note,
        recall_by_depth={depth: recall[f"R@{depth}"] for depth in depths if recall},
        latency=found.latency.get(name),
    )  # fmt: skip


def _curves(folder: Path) -> tuple[list[Curve], list[Curve], list[str]]:
    """Training and validation, and which log lines are too damaged to be shown."""
    training, validation, damaged = [], [], []

    def read(path: Path, *needed: str) -> list[Any]:
        records, unreadable = storage.readable_lines(path, needed)
        if unreadable:
            damaged.append(
                f"{path.relative_to(folder)}: {unreadable:,} lines are unreadable and missing from the curve"
            )
        return records

    for stage in sorted(folder.glob("stage-*/train")):
        records = read(stage / "log.jsonl", "step", "loss")
        name = stage.parent.name.replace("-", " ")
        for part in dict.fromkeys(r.get("stage", name) for r in records):  # several in a cycle
            own = [r for r in records if r.get("stage", name) == part]
            training.append(Curve(f"{part}: loss", "step", [r["step"] for r in own], [r["loss"] for r in own]))
        records = read(stage / "validation.jsonl", "step")
        for measured in (set(records[0]) - {"step"}) if records else ():
            values = [r[measured] for r in records]
            validation.append(Curve(f"{name}: {measured}", "step", [r["step"] for r in records], values))
    return training, validation, damaged


# --- data checks and examples --------------------------------------------------------------------


def _data_checks(outcome: Outcome) -> tuple[list[DataCheck], list[str]]:
    checks: list[DataCheck] = []
    warnings: list[str] = []
    seen: set[str] = set()
    trained = {
        source.dataset: source.split
        for stage in outcome.recipe.stages
        for source in stage.data
        if isinstance(source, Judged) and source.qrels is None
    }
    for found in outcome.evaluated:
        name, label = found.dataset.name, found.labels[0]
        if name in seen:
            continue
        seen.add(name)
        same = [e.evaluation for e in outcome.evaluated if e.dataset.name == name]
        tests = list(dict.fromkeys(e.split for e in same if e.qrels is None))
        audit = audit_dataset(found.dataset, train=trained.get(name), tests=tests, ranker=outcome.start)
        warnings += [f"{label}: {warning}" for warning in audit.warnings]
        checks += [
            DataCheck(f"{label}: documents", audit.documents.texts),
            DataCheck(f"{label}: documents with the same text as another", audit.documents.duplicates.count),
            DataCheck(f"{label}: empty documents", audit.documents.empty.count),
        ]
        for side, texts in (("documents", audit.documents), ("queries", audit.queries)):
            if texts.truncated is not None:
                checks.append(DataCheck(f"{label}: {side} cut off at {texts.limit} tokens", f"{texts.truncated:.1%}"))
        for split, facts in audit.splits.items():
            checks.append(DataCheck(f"{label} {split}: queries / judged pairs", f"{facts.queries:,} / {facts.pairs:,}"))
        for split, leak in audit.leaks.items():
            checks.append(DataCheck(f"{label} {split}: queries also in training (by text)", leak.texts.count))
            checks.append(DataCheck(f"{label} {split}: judged pairs also in training", leak.pairs.count))
        checks += [DataCheck(f"{label}: {kind}", count) for kind, count in audit.problems.items()]
    checks += [DataCheck(f"{stage}: negatives", text) for stage, text in outcome.negatives.items()]
    return checks, warnings


def _examples(outcome: Outcome, scores: dict[str, dict[str, Scores]]) -> tuple[list[QueryExample], list[QueryExample]]:
    """Queries that gained and lost most in the leading comparison."""
    if not outcome.evaluated:
        return [], []
    found = outcome.evaluated[0]
    systems = scores[found.place]
    pairs = _pairs(list(systems))
    if not pairs:
        return [], []
    before, after = pairs[0]
    differences = per_query_differences(systems[before], systems[after], systems[after].measures[0])
    view = _View(found, before, after)
    best = [view.example(d.query, d.difference) for d in differences[:_EXAMPLES] if d.difference > 0]
    worst = [view.example(d.query, d.difference) for d in differences[: -_EXAMPLES - 1 : -1] if d.difference < 0]
    return best, worst


class _View:
    """One collection's texts, judgements and two runs, for examples."""

    def __init__(self, found: Evaluated, before: str, after: str) -> None:
        self.dataset: Dataset = found.dataset
        self.match = parse(found.evaluation.measures)[0].match
        self.evidence = found.evidence
        self.qrels = {} if found.evidence.qrels is None else found.evidence.qrels.to_dict()
        self.runs = [found.runs[name].ranked(_TOP).to_dict() for name in (before, after)]

    def example(self, query: str, difference: float) -> QueryExample:
        grades = self.qrels.get(query, {}) | self._answered(query)
        relevant = [RelevantDoc(doc, self._title(doc), grade) for doc, grade in grades.items() if grade > 0]
        tops = [
            [RankedDoc(doc, self._text(doc), score, grades.get(doc)) for doc, score in run.get(query, {}).items()]
            for run in self.runs
        ]
        row = self.dataset.queries.row(query)
        text = self.dataset.queries[row].text if row is not None else ""
        return QueryExample(query, text, difference, relevant, *tops)

    def _answered(self, query: str) -> dict[str, float]:
        """Where there are answers alone: 1 for each shown passage that holds one, 0 for the others."""
        if self.evidence.qrels is not None or self.evidence.answers is None:
            return {}
        shown = [doc for run in self.runs for doc in run.get(query, {})]
        answers, match = self.evidence.answers[query], self.match
        texts = self.dataset.corpus.documents(shown)
        return {document.id: float(has_answer(document.text, answers, match=match)) for document in texts}

    def _text(self, doc: str) -> str:
        row = self.dataset.corpus.row(doc)
        if row is None:
            raise ArtefactError(f"a run names document {doc!r}, which the corpus lacks", fix="make the run again")
        document = self.dataset.corpus[row]
        text = f"{document.title} {document.text}".strip()
        return text if len(text) <= _SNIPPET else text[: _SNIPPET - 1] + "…"

    def _title(self, doc: str) -> str:
        row = self.dataset.corpus.row(doc)
        return "(not in the corpus)" if row is None else self.dataset.corpus[row].title or self._text(doc)[:80]
