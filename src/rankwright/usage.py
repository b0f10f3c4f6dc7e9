"""A model used otherwise than it was trained: the settings of one evaluation, and what to say about the difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from .assemble import require_positions
from .errors import RecipeError
from .plan import Recipe, Use

if TYPE_CHECKING:
    from .models import Ranker

_OVERRIDES = ("similarity", "query_length", "doc_length", "query_cut", "query_prompt", "doc_prompt")


def used(spec: Any, use: Use | None, *, where: str = "evaluate") -> Any:
    """The model of a recipe as one evaluation uses it.

    Raises:
        RecipeError: the model has no such setting.
    """
    given = {name: getattr(use, name) for name in _OVERRIDES if use is not None and getattr(use, name) is not None}
    known = {field.name for field in fields(spec)}
    if absent := [name for name in given if name not in known]:
        what = f"use: {type(spec).__name__} has no {absent[0]}"
        raise RecipeError(what, where=where, fix=f"it has {', '.join(sorted(known & set(_OVERRIDES)))}")
    return replace(spec, **given)


def check(plan: Recipe, model: Ranker) -> None:
    """Refuse lengths and uses that do not fit the model, before hours of work.

    Raises:
        RecipeError: more tokens than the model has positions for, or a setting that it has not.
    """
    places = {f"stages.{number}": stage for number, stage in enumerate(plan.stages)}
    uses = {f"evaluate.{number}.use": each.use for number, each in enumerate(plan.evaluate) if each.use is not None}
    for where, given in (places | uses).items():
        require_positions(model, "query", given.query_length, where=where)
        require_positions(model, "doc", given.doc_length, where=where)
    for where, use in uses.items():
        used(plan.model, use, where=where)


def differences(plan: Recipe, model: Ranker) -> Iterator[str]:
    """Where an evaluation reads texts, or compares them, otherwise than the stages did; one sentence each."""
    limits = model.limits
    last = plan.stages[-1] if plan.stages else None
    if last is None:
        return
    trained = {"query_length": last.query_length or limits["query"], "doc_length": last.doc_length or limits["doc"]}
    trained |= {"similarity": model.similarity}
    for number, evaluation in enumerate(plan.evaluate):
        use = evaluation.use or Use("as-trained")
        asked = {"query_length": use.query_length or limits["query"], "doc_length": use.doc_length or limits["doc"]}
        asked |= {"similarity": use.similarity or trained["similarity"]}
        found = [
            f"{name} {asked[name]}, trained with {trained[name]}" for name in asked if asked[name] != trained[name]
        ]  # fmt: skip
        if found:
            yield f"evaluate.{number} differs from training: {'; '.join(found)}"
