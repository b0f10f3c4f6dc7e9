"""The keys of another program's configuration: which were translated, which were not, and what was filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RecipeError


class Keys:
    """One mapping of a configuration; what nobody takes is reported in the end.

    Attributes:
        unmapped: key -> why it was not translated.
        filled: what the configuration does not say and the recipe therefore says for it.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str, path: str = "", parent: Keys | None = None) -> None:
        self._values, self._taken = dict(values), set[str]()
        self.where, self.path = where, path
        self.unmapped: dict[str, str] = parent.unmapped if parent else {}
        self.filled: list[str] = parent.filled if parent else []

    def below(self, key: str, values: Mapping[str, Any]) -> Keys:
        """The keys of a mapping inside this one, whose notes join these."""
        return Keys(values, where=self.where, path=f"{self.path}{key}.", parent=self)

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which counts as translated; `default` where it is absent or null."""
        self._taken.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def number(self, key: str, default: Any = None) -> Any:
        """`take`, which must be a number.

        Raises:
            RecipeError: it is none.
        """
        value = self.take(key, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RecipeError(f"{self.path}{key} is {value!r}, no number", where=self.where, fix="write a number")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        """`take`, which must be text.

        Raises:
            RecipeError: it is not.
        """
        value = self.take(key, default)
        if value is not None and not isinstance(value, str):
            raise RecipeError(f"{self.path}{key} is {value!r}, no text", where=self.where, fix="put it in quotes")
        return value

    def assume(self, what: str) -> None:
        """Say that the recipe has a value which the configuration does not have."""
        if what not in self.filled:
            self.filled.append(what)

    def refuse(self, key: str, why: str, *, neutral: tuple[Any, ...] = ()) -> None:
        """Say why a key is not translated, if it is there and means something."""
        value = self.take(key)
        if value is not None and value not in neutral:
            self.unmapped[f"{self.path}{key}"] = f"{why} (it is {value!r:.60})"

    def rest(self, why: str = "has no counterpart here") -> None:
        """Name every key that nobody took."""
        for key in sorted(self._values.keys() - self._taken):
            self.refuse(key, why)
