"""Permutations as language models write them, `[2] > [1] > [3]`: read, checked, repaired where that is wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PLAIN = re.compile(r"\s*\[?\d{1,9}\]?\s*(?:>\s*\[?\d{1,9}\]?\s*)*")
_BRACKETED = re.compile(r"\[\s*(\d{1,9})\s*\]")
_NUMBER = re.compile(r"(?<![\w.])(\d{1,9})(?!\w|\.\d)")
_THOUGHT = "</think>"  # what reasoning models write before it is no part of the answer


@dataclass(frozen=True)
class Permutation:
    """What was read of one answer.

    Attributes:
        order: each of the n places once, from 0, best first; those that were not named follow in their old order.
        named: how many different places the answer names.
        repeated: numbers that stood there before.
        foreign: numbers that are no place: 0, or above n.
        plain: whether the answer is numbers and `>` and nothing else.
    """

    order: tuple[int, ...]
    named: int
    repeated: int
    foreign: int
    plain: bool

    @property
    def missing(self) -> int:
        """How many places the answer does not name."""
        return len(self.order) - self.named

    @property
    def complete(self) -> bool:
        """Whether each place is named exactly once and nothing else is."""
        return not (self.missing or self.repeated or self.foreign)

    @property
    def strict(self) -> bool:
        """Whether the answer is a permutation as it stands: complete, and no word besides."""
        return self.complete and self.plain


def read_permutation(text: str, n: int) -> Permutation:
    """The order of n places that a text names by numbers from 1, best first.

    Numbers in brackets count alone where there are any: `of the 4 passages, [2] > [1]` names 2 and 1. Repairing is
    what RankGPT does when it distils (Sun et al., EMNLP 2023): the first mention counts, numbers that are no place are
    passed over, places that are not named follow in their old order.
    """
    answer = text.rpartition(_THOUGHT)[2]
    plain = _PLAIN.fullmatch(answer) is not None
    numbers = [int(found) for found in _BRACKETED.findall(answer) or _NUMBER.findall(answer)]
    places: dict[int, None] = {}
    repeated = foreign = 0
    for number in numbers:
        if not 1 <= number <= n:
            foreign += 1
        elif number - 1 in places:
            repeated += 1
        else:
            places[number - 1] = None
    order = (*places, *(place for place in range(n) if place not in places))
    return Permutation(order, len(places), repeated, foreign, plain)
