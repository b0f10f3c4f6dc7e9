"""What a language model is asked for an order of passages, and the windows in which a long list is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SYSTEM = "You order text passages by how well they answer a search query. You reply with the order and nothing else."
_MARK = re.compile(r"\[(\s*\d+\s*)\]")


def spans(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """(begin, end) of the windows over n places, from the last to the first, so that good ones rise to the top.

    As RankGPT slides (Sun et al., EMNLP 2023), and on until the first place is in a window: with 25 places, windows
    of 20 and steps of 10 there are two, 5 to 25 and 0 to 15.
    """
    found: list[tuple[int, int]] = []
    end = n
    while end > 1:
        begin = max(0, end - window)
        found.append((begin, end))
        if begin == 0:
            break
        end -= step
    return found


def messages(query: str, passages: Sequence[str], *, characters: int) -> list[dict[str, str]]:
    """The conversation that asks for an order of the passages; each is cut to so many characters.

    Marks such as `[3]` inside a text become `(3)`, so that they are not taken for the number of a passage.
    """
    n = len(passages)
    lines = [f"[{place}] {_shown(text, characters)}" for place, text in enumerate(passages, start=1)]
    example = " > ".join(f"[{place}]" for place in ([2, 1] if n == 2 else [2, 3, 1]))
    asked = (
        f"Search query: {_shown(query, characters)}\n\n"
        f"Here are {n} passages, each after its number in brackets.\n\n" + "\n\n".join(lines) + "\n\n"
        f"Order all {n} passages by relevance to the search query, most relevant first. Write each number once, in "
        f"brackets, with > between them, for example {example}. Write only the order."
    )
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}]


def _shown(text: str, characters: int) -> str:
    """One line, cut at white space where there is some near the end."""
    line = _MARK.sub(r"(\1)", " ".join(text.split()))
    if len(line) <= characters:
        return line
    cut = line[:characters]
    at = cut.rfind(" ")
    return cut[:at] if at > characters // 2 else cut
