"""Title and text of a document as one string."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Document


def fill_in(parts: Sequence[tuple[str, str]], document: Document) -> str:
    """The template filled in; an empty title or text takes the separator between them with it.

    Args:
        parts: (literal, field) of the template, as `check_template` takes it apart.
    """
    values, text, empty = {"title": document.title, "text": document.text}, "", False
    for number, (literal, name) in enumerate(parts):
        value = values.get(name, "")
        between = number > 0 and name != ""
        text += value if between and (empty or not value) else literal + value
        empty = not value
    return text
