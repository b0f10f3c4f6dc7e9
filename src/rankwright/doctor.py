"""Looks before the work: what is odd about a recipe's data, and the gradient proof on the user's own recipe."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import assemble, teaching
from .data import (
    Audit,
    Corpus,
    Dataset,
    Judged,
    Reading,
    Shuffled,
    audit,
    read_run,
    supervise,
    suspected_false_negatives,
)  # fmt: skip
from .errors import UsageError
from .loading import is_bundled, load_recipe
from .plan import Recipe
from .types import Side

if TYPE_CHECKING:
    from .models import Ranker

_UNCUT = 1 << 20  # tokens: longer than any text that is worth reading


def audit_dataset(dataset: Dataset, *, train: str | None, tests: Sequence[str], ranker: Ranker | None = None) -> Audit:
    """The data checks; with a ranker also how many texts its lengths cut off."""
    sides: dict[Side, Corpus] = {"query": dataset.queries, "doc": dataset.corpus}
    lengths: dict[Side, np.ndarray] = {}
    if ranker is not None:
        for side, corpus in sides.items():
            lengths[side] = assemble.tokens(ranker, corpus, side, cache=dataset.cache, limit=_UNCUT).lengths
    return audit(
        dataset,
        train_split=train if train in dataset.splits else None,
        test_splits=[split for split in tests if split in dataset.splits],
        query_lengths=lengths.get("query"),
        doc_lengths=lengths.get("doc"),
        query_limit=ranker.limits["query"] if ranker else None,
        doc_limit=ranker.limits["doc"] if ranker else None,
    )


def examine(given: Namespace) -> dict[str, Any]:
    """Data set -> its findings as plain values, for a recipe or a data set folder."""
    reading = Reading(lenient=True)  # a doctor counts what the others refuse
    findings: dict[str, Any] = {}
    if Path(given.thing).suffix not in (".yaml", ".yml") and not is_bundled(given.thing):
        dataset = Dataset.open(given.thing, reading=reading)
        for split in [*([given.train] if given.train else []), *(given.test or [])]:
            dataset.qrels(split)  # one that was named must be there
        train, tests = given.train or "train", ["test"] if given.test is None else given.test
        findings[given.thing] = audit_dataset(dataset, train=train, tests=tests).to_dict()
    else:
        plan = load_recipe(given.thing)
        ranker = plan.model.load()
        train = "train"
        for name, splits in _datasets(plan).items():
            dataset = Dataset.open(name, reading=reading)
            found = audit_dataset(dataset, train=splits[0], tests=splits[1], ranker=ranker)
            findings[name] = found.to_dict()
    if given.run:
        name = next(iter(findings))
        qrels = Dataset.open(name, reading=reading).qrels(train)
        found = suspected_false_negatives(read_run(Path(given.run)), qrels)
        findings[name]["suspected false negatives"] = {
            "unjudged documents above a relevant one": found.suspects.count,
            "queries": found.queries,
            "examples": list(found.suspects.examples),
        }
    return findings


def _datasets(plan: Recipe) -> dict[str, tuple[str | None, list[str]]]:
    """Data set -> (training split, test splits)."""
    found: dict[str, tuple[str | None, list[str]]] = {}
    for stage in plan.stages:
        for source in stage.data:
            split = source.split if isinstance(source, Judged) and source.qrels is None else None
            found[source.dataset] = (found.get(source.dataset, (None, []))[0] or split, [])
    for evaluation in plan.evaluate:
        train, tests = found.get(evaluation.dataset, (None, []))
        if evaluation.qrels is None:
            tests = [*tests, evaluation.split]
        found[evaluation.dataset] = (train, tests)
    return found


def text(findings: dict[str, Any], thing: str) -> str:
    """The findings for a person: warnings first, then the numbers."""
    lines: list[str] = []
    for name, found in findings.items():
        lines.append(f"{name}")
        warnings = found.get("warnings", [])
        lines += [f"  ! {warning}" for warning in warnings] or ["  nothing suspicious"]
        rest = {key: value for key, value in found.items() if key not in ("warnings", "fingerprint")}
        lines += [f"  {line}" for line in _indented(rest)]
    recipe = thing if thing not in findings else "RECIPE"  # a data set is looked at by its own name
    lines.append(f"next: {shlex.join(['rankwright', 'run', recipe, '--dry-run'])}")
    return "\n".join(lines)


def _indented(value: dict[str, Any], depth: int = 0) -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, dict) and item and set(item) != {"count", "examples"}:
            yield "  " * depth + f"{key}:"
            yield from _indented(item, depth + 1)
        elif isinstance(item, dict) and "count" in item:
            examples = f"  e.g. {'; '.join(map(str, item['examples'][:3]))}" if item["examples"] else ""
            yield "  " * depth + f"{key}: {item['count']:,}{examples}"
        elif item not in (None, {}, []):
            yield "  " * depth + f"{key}: {item}"


# --- gradients -----------------------------------------------------------------------------------


def gradient_checks(plan: Recipe, *, queries: int, dtype: str) -> list[dict[str, Any]]:
    """Per stage and way of running the step: distance from plain autograd, on the first batch of the recipe's data."""
    from .training import Objective, check_gradients

    if not plan.stages:
        raise UsageError("the recipe has no stages: there is no gradient to check")
    results = []
    for number, stage in enumerate(plan.stages, start=1):
        ranker = plan.model.load(dtype=dtype, seed=plan.seed)
        mixture = assemble.open_mixture(stage.data, reading=Reading())
        small = replace(stage.batches if isinstance(stage.batches, Shuffled) else Shuffled(), size=queries)
        loader = assemble.make_loader(
            ranker, mixture, supervise(mixture, stage.data), group=stage.group, batches=small, seed=plan.seed,
            limits={"query": stage.query_length, "doc": stage.doc_length}, workers=0,
            drawn=stage.drawn,
        )  # fmt: skip
        with teaching.teachers(stage.objective, mixture, reading=Reading(), device="cpu") as taught:
            objective = Objective(stage.objective, taught)
            for check in check_gradients(ranker, objective, loader.batch(0), seed=plan.seed):
                results.append({"stage": str(number), **vars(check), "passed": check.passed})
    return results
