"""Every name of ours on docs/migrating.md exists: recipe keys, components with their arguments, verbs and options."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from rankwright import data, losses, models, plan, search
from rankwright.cli import parser

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs/migrating.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| flag", "| key"))
]
NAMES = sorted({span for _, ours in ROWS for span in re.findall(r"`([^`]+)`", ours)})
SECTIONS = {
    "recipe": plan.Recipe, "train": plan.Train, "validate": plan.Validation, "mine": plan.Mining,
    "evaluate": plan.Evaluation, "rerank": plan.Reranking, "objective": plan.Term,
}  # fmt: skip
WORDS = {
    "key=value",
    "my_code.MySource",
    "log.jsonl",
    "ir_datasets:",
    "truncation_side",
    "org/name@revision",
    "sr-dpr-*",
}


def exists(name: str) -> bool:
    if name in WORDS or (ROOT / f"src/rankwright/recipes/{name}.yaml").is_file():
        return True
    if name.startswith("rankwright "):
        _, verb, *words = name.split()
        verbs = next(action.choices for action in parser()._actions if action.dest == "verb")
        options = (
            {option for action in verbs[verb]._actions for option in action.option_strings} if verb in verbs else ()
        )
        return verb in verbs and all(word in options for word in words)
    owner, _, key = name.partition(":")[0].rpartition(".")
    if not owner and key[0].isupper():
        return component(key) is not None
    kinds = [SECTIONS.get(owner) or component(owner)] if owner else [plan.Recipe, plan.Stage]
    return any(is_dataclass(kind) and key in {field.name for field in fields(kind)} for kind in kinds)


def component(name: str) -> object:
    rooms = (data, losses, models, search, plan)
    return next((getattr(room, name) for room in rooms if name in getattr(room, "__all__", ())), None)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_exists(name: str):
    assert exists(name), name


def test_every_row_says_something():
    assert len(ROWS) > 150
    assert all(len(row) == 2 and all(row) for row in ROWS)
    assert not exists("train.learning_rat")
    assert not exists("rankwright search --kk")
    assert not exists("Judge")
