"""The names of a recipe's parts in files and tables: its run folder, data sets and test collections, each used once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import storage
from .plan import Recipe


def run_folder(plan: Recipe) -> Path:
    """``output/name`` of a recipe."""
    return Path(plan.output) / storage.safe_name(plan.name or "run")


def short_name(dataset: str) -> str:
    """The last part of a data set's path or hub id, as part of a file name."""
    last = Path(dataset.removeprefix("bundled:")).name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in last).lstrip(".") or "data"


def dataset_names(plan: Recipe) -> dict[str, str]:
    """Data set -> its name in files and tables: its folder's; numbered where two folders are called the same."""
    used = [evaluation.dataset for evaluation in plan.evaluate]
    used += [source.dataset for stage in plan.stages for source in stage.data]
    used = list(dict.fromkeys([*used, *(stage.validate.dataset for stage in plan.stages if stage.validate)]))
    return dict(zip(used, _distinct([short_name(name) for name in used])))


def collection_labels(plan: Recipe) -> list[tuple[str, str]]:
    """(data set, split) of every test collection as people read them; joined they name its folder, each used once."""
    names = dataset_names(plan)
    splits = [short_name(e.qrels).split(".")[0] if e.qrels else e.split for e in plan.evaluate]
    splits = [f"{split}-{e.use.name}" if e.use else split for e, split in zip(plan.evaluate, splits)]
    joined = _distinct([f"{names[e.dataset]}-{split}" for e, split in zip(plan.evaluate, splits)])
    return [(names[e.dataset], name[len(names[e.dataset]) + 1 :]) for e, name in zip(plan.evaluate, joined)]


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with -2, -3 ... behind those that came before; some file systems do not tell a from A."""
    taken: dict[str, str] = {}
    for name in names:
        new, number = name, 1
        while new.casefold() in taken:
            number += 1
            new = f"{name}-{number}"
        taken[new.casefold()] = new
    return list(taken.values())
