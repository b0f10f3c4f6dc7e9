"""From a recipe's file, or the name of one that comes along, to a `Recipe`; its places made absolute or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from . import recipe as recipes
from .errors import UsageError
from .plan import Recipe

_RECIPES = Path(__file__).parent / "recipes"
_PLACES = (  # fields that may hold a local path
    "backbone", "by", "candidates", "dataset", "doc_backbone", "first", "qrels", "queries", "questions", "relevant",
    "run", "samples", "scores", "teacher", "topics", "triples",
)  # fmt: skip


def load_recipe(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, or from the package by name (``quickstart``); its run is named after the file.

    Raises:
        RecipeError: it does not say something that can be run.
        UsageError: there is no such recipe.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise UsageError("overrides are for YAML recipes", fix="use dataclasses.replace on the Recipe")
        return recipe
    path = Path(recipe)
    if not path.exists() and is_bundled(str(recipe)):
        path = _RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in _RECIPES.glob("*.yaml")))
        raise UsageError("no such recipe", where=path, fix=f"give a YAML file, or one that comes along: {names}")
    plan = recipes.load(path, Recipe, overrides=overrides)
    return plan if plan.name else replace(plan, name=path.stem)


def is_bundled(name: str) -> bool:
    """Whether a recipe of this name comes with the package."""
    return name.replace("-", "_").isidentifier() and (_RECIPES / f"{name}.yaml").is_file()


def rooted(plan: Recipe) -> Recipe:
    """The recipe as it means the same from every folder: each local path that exists is absolute, and so is the output.

    Hub ids, ``bundled:`` names and what does not exist stay as they are.
    """
    return replace(_rooted(plan), output=str(Path(plan.output).expanduser().absolute()))


def _rooted(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_rooted, value))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changes: dict[str, Any] = {}
    for field in fields(value):
        held = getattr(value, field.name)
        new = _placed(held) if field.name in _PLACES else _rooted(held)
        if field.init and new != held:
            changes[field.name] = new
    return replace(value, **changes) if changes else value


def _placed(held: Any) -> Any:
    """A place, several, or a component that holds some (a teacher)."""
    if isinstance(held, tuple):
        return tuple(map(_placed, held))
    return _absolute(held) if isinstance(held, str) else _rooted(held)


def _absolute(held: str) -> str:
    if held in ("", "model", "bm25", "pool"):  # the words of Mining.by and other first stages
        return held
    path = Path(held).expanduser()
    return str(path.absolute()) if path.exists() else held


def choices(value: object) -> object:
    """A part of a recipe as plain values without its places: what stands there is fingerprinted by its content."""
    if isinstance(value, list | tuple):
        return [choices(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    held = {field.name: getattr(value, field.name) for field in fields(value)}
    plain = {name: _displaced(item) if name in _PLACES else choices(item) for name, item in held.items()}
    return {type(value).__name__: plain}


def _displaced(held: object) -> object:
    if isinstance(held, tuple):
        return [_displaced(item) for item in held]
    return held is not None if held is None or isinstance(held, str) else choices(held)
