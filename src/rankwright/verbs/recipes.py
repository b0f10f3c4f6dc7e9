"""Verbs over whole recipes and run folders: run, quickstart, train, report."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from .. import api, assemble, recipe
from ..console import out, out_json
from ..data import Dataset, Reading, supervise
from ..errors import UsageError
from ..judgements import evidence
from ..models import Cross
from ..outputs import command
from ..plan import Recipe
from ..progress import quiet
from ..training import distributed


def run(given: Namespace) -> None:
    plan = _plan(given)
    if given.dry_run:
        return _dry_run(plan, given)
    if given.json:
        quiet()
    result = api.run(plan, folder=given.folder, lenient=given.lenient, allow_drift=given.allow_drift)
    _finished(result, given)


def quickstart(given: Namespace) -> None:
    """The bundled recipe; a pretrained model and a test collection come with the package."""
    if given.json:
        quiet()
    plan = api.load_recipe("quickstart", [f"seed={given.seed}"])
    _finished(api.run(plan, folder=given.folder), given)


def train(given: Namespace) -> None:
    from ..pipeline import Pipeline

    plan = _plan(given)
    if given.dry_run:
        return _dry_run(plan, given)
    if given.json:
        quiet()
    pipeline = Pipeline(
        plan,
        folder=Path(given.folder) if given.folder else None,
        reading=Reading(lenient=given.lenient),
        allow_drift=given.allow_drift,
    )
    model = pipeline.train()
    if given.json:
        return out_json({"model": str(model), "folder": str(pipeline.folder)})
    out(f"model: {model}")
    if isinstance(plan.model, Cross):
        return out(f"next:  {command('rerank', 'RUN', 'DATA', '--model', model, '--out', 'reranked.trec')}")
    out(f"next:  rankwright encode {model} DATA --out vectors")


def report(given: Namespace) -> None:
    from ..pipeline import Pipeline
    from ..reporting import conclude

    folder = Path(given.folder)
    if not (folder / "recipe.yaml").is_file():
        raise UsageError("is no run folder: no recipe.yaml in it", where=folder, fix="give what `rankwright run` made")
    plan = api.load_recipe(folder / "recipe.yaml")
    outcome = Pipeline(plan, folder=folder, reading=Reading(lenient=given.lenient)).run()
    if distributed.rank():
        return
    with distributed.alone():
        path, _ = conclude(outcome)
    out(f"report: {path}")
    if outcome.model:
        out(f"next:   {command('export', outcome.model, '--verify')}")


def _plan(given: Namespace) -> Recipe:
    return api.load_recipe(given.recipe, given.overrides)


def _finished(result: api.Result, given: Namespace) -> None:
    from ..reporting import summary

    if distributed.rank():
        return None
    if given.json:
        return out_json(
            {
                "folder": str(result.folder),
                "model": str(result.model),
                "report": str(result.report),
                "means": result.means(),
                "steps": [vars(step) for step in result.steps],
            }
        )
    out(summary(result.scores, result.steps, model=result.model, report=result.report))


def _dry_run(plan: Recipe, given: Namespace) -> None:
    """Check everything that can be checked before work starts, and print the resolved recipe."""
    from ..naming import run_folder
    from ..pipeline import Pipeline
    from ..stages import check_grades

    reading = Reading(lenient=given.lenient)
    Pipeline(plan, folder=Path(given.folder) if given.folder else None, reading=reading).check()
    facts: list[dict[str, Any]] = []
    for number, stage in enumerate(plan.stages, start=1):
        found = supervise(assemble.open_mixture(stage.data, reading=reading), stage.data)
        if stage.mine is None:
            check_grades(stage, number, found)
        left = {"queries left out": found.dropped, "relevant documents outside the rankings": found.outside}
        facts.append({"stage": number, "queries": len(found), "judgements": len(found.table)})
        facts[-1].update({name: count for name, count in left.items() if count})
    for evaluation in plan.evaluate:
        dataset = Dataset.open(evaluation.dataset, reading=reading)
        queries = evidence(dataset, evaluation).queries
        facts.append({"test": evaluation.dataset, "queries": len(queries), "documents": len(dataset.corpus)})
    folder = given.folder or run_folder(plan)
    if given.json:
        return out_json({"folder": str(folder), "facts": facts, "recipe": recipe.dump(plan)})
    out(recipe.dump(plan))
    for fact in facts:
        out("# " + ", ".join(f"{key} {value}" for key, value in fact.items()))
    out(f"# run folder: {folder}")
    out(f"# nothing was done; next: {command(given.verb, given.recipe, *given.overrides)}")
