"""Conversations as the texts of queries: the last turns, each written by a template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from types import MappingProxyType

from ...errors import UsageError

_NAMED = MappingProxyType({"user": "user", "assistant": "agent"})


@dataclass(frozen=True)
class Turns:
    """How turns become a text.

    Args:
        last: how many of the last turns; None: all.
        roles: what a role is called in the text; others keep their name.
        template: of one turn, with ``{role}`` and ``{content}``.
        between: what stands between two turns.

    Raises:
        UsageError: fewer than one turn, or a template without ``{content}``.
    """

    last: int | None = 5
    roles: Mapping[str, str] = field(default_factory=lambda: _NAMED)
    template: str = "{role}: {content}"
    between: str = "\n"

    def __post_init__(self) -> None:
        if self.last is not None and self.last < 1:
            raise UsageError(f"{self.last} turns make no query", fix="give 1 or more")
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError:
            parts = []
        names = [name for _, name, _, _ in parts if name is not None]
        plain = all(not spec and not conversion for _, _, spec, conversion in parts)
        if not plain or "content" not in names or set(names) - {"role", "content"}:
            fix = "use {role} and {content}, e.g. '{role}: {content}'"
            raise UsageError(f"the turn template {self.template!r} cannot be filled in", fix=fix)

    def render(self, turns: list[tuple[str, str]]) -> str:
        """The text of (role, content) pairs."""
        kept = turns if self.last is None else turns[-self.last :]
        named = [(self.roles.get(role, role), content.strip()) for role, content in kept]
        return self.between.join(self.template.format(role=role, content=content) for role, content in named)
