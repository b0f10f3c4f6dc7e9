"""Another program's configuration as a recipe: what maps is mapped, what does not is named with its key."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import recipe
from ..errors import RecipeError
from . import matchmaker, trove
from ._keys import Keys

__all__ = ["Translation", "translate"]


class Translation(NamedTuple):
    """A recipe as YAML with notes at its head.

    Attributes:
        program: whose configuration it was.
        recipe: the recipe as plain data.
        unmapped: key -> why it was not translated.
        filled: what the configuration does not say and the recipe says for it.
        text: all of it as YAML.
    """

    program: str
    recipe: dict[str, Any]
    unmapped: dict[str, str]
    filled: list[str]
    text: str


def translate(paths: Sequence[str | Path]) -> Translation:
    """The recipe of a Trove `mqrel` JSON, or of matchmaker's YAML files, merged from left to right as it does.

    Raises:
        RecipeError: a file cannot be read, or is neither.
    """
    values: dict[str, Any] = {}
    for path in paths:
        read = recipe.read_plain(path)
        if not isinstance(read, dict):
            raise RecipeError("is no mapping of keys", where=path, fix="give a Trove JSON or a matchmaker YAML")
        values |= read
    where = ", ".join(map(str, paths))
    for program, module in (("Trove", trove), ("matchmaker", matchmaker)):
        if module.MARKS & values.keys():
            keys = Keys(values, where=where)
            made = module.translated(keys)
            text = _text(program, [Path(path).name for path in paths], made, keys)
            return Translation(program, made, keys.unmapped, keys.filled, text)
    known = ", ".join(sorted(trove.MARKS)) + " (Trove), " + ", ".join(sorted(matchmaker.MARKS)) + " (matchmaker)"
    raise RecipeError("has no key that tells whose configuration it is", where=where, fix=f"known are {known}")


def _text(program: str, names: Sequence[str], made: dict[str, Any], keys: Keys) -> str:
    lines = [f"Translated from {program}: {', '.join(names)}"]
    if keys.filled:
        lines += ["", "Not said there, filled in here:", *(f"- {what}" for what in keys.filled)]
    if keys.unmapped:
        lines += ["", "Not translated:", *(f"- {key}: {why}" for key, why in keys.unmapped.items())]
    wrapped = [part for line in lines for part in textwrap.wrap(line, 112, subsequent_indent="  ") or [""]]
    head = "".join(f"# {line}".rstrip() + "\n" for line in wrapped)
    return f"{head}\n{recipe.emit(made)}"
