"""Answers in passages: DPR's rules for when a passage holds an answer, looked up for whole runs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .. import signals
from ..names import picked
from ..progress import progress
from ..types import Document, Run

Answers = Mapping[str, Sequence[str]]  # query id -> its answers; one of them will do
Passages = Callable[[Sequence[str]], Iterable[Document]]  # ids -> the documents, in that order

_BETWEEN = "\x1f"  # stands between tokens; as a control character it is never part of one
_ASCII = re.compile(r"[0-9A-Za-z]+|[^\x00-\x20\x7f]")


class Retrieved(NamedTuple):
    """One question's first passages, best first."""

    query: str
    docs: list[Document]
    scores: Float[np.ndarray, " n"]
    has_answer: list[bool]


def tokens(text: str) -> list[str]:
    """The tokens of a text, in lower case: runs of letters, numbers and marks, and every other visible sign alone.

    That is ``[\\p{L}\\p{N}\\p{M}]+|[^\\p{Z}\\p{C}]`` over the text in NFD, the tokens of DPR (arXiv:2004.04906) and of
    DrQA before it, by the Unicode tables of this Python.
    """
    return _joined(text).split(_BETWEEN)[1:-1]


def has_answer(text: str, answers: Sequence[str], *, match: str = "string") -> bool:
    """Whether a passage's text holds one of the answers by DPR's rules; its title does not count.

    Args:
        match: ``string``: an answer's tokens stand in the text, one after the other. ``regex``: an answer is a pattern,
            upper or lower case, ``^`` and ``$`` at line ends too, found anywhere in the text; one that is no pattern
            matches nothing. Both are brought to NFD first. An answer without a token matches nothing.
    """
    return _finder(answers, match)(text)


def retrieved(
    run: Run, answers: Answers, passages: Passages, *, depth: int = 100, match: str = "string"
) -> Iterator[Retrieved]:
    """The first passages of every question, in the order of `answers`; none of one that the run lacks.

    Raises:
        DataError: the run names a passage that `passages` lacks.
    """
    ranked = run.ranked(depth)
    rows = ranked.rows()
    with progress("look for answers", len(answers), "questions") as bar:
        for query, texts in answers.items():
            signals.check()
            begin, end = ranked.offsets[rows[query] :][:2].tolist() if query in rows else (0, 0)
            docs = list(passages(picked(ranked.docs, ranked.columns[begin:end]))) if end > begin else []
            found = _finder(texts, match)
            yield Retrieved(query, docs, ranked.scores[begin:end], [found(doc.text) for doc in docs])
            bar.advance()


def first_ranks(run: Run, answers: Answers, passages: Passages, *, depth: int, match: str = "string") -> dict[str, int]:
    """Question -> the rank, from 1, of its first passage with an answer; questions without one are left out.

    Raises:
        DataError: as `retrieved`.
    """
    rows = retrieved(run, answers, passages, depth=depth, match=match)
    return {row.query: row.has_answer.index(True) + 1 for row in rows if True in row.has_answer}


# --- one question -----------------------------------------------------------------------------------------------------


def _finder(answers: Sequence[str], match: str) -> Callable[[str], bool]:
    """Whether a text holds one of these answers."""
    if match == "regex":
        patterns = [pattern for answer in answers if (pattern := _compiled(answer))]
        return lambda text: any(pattern.search(_nfd(text)) for pattern in patterns)
    wanted = [(_probe(answer), joined) for answer in answers if (joined := _joined(answer)) != _BETWEEN]

    def found(text: str) -> bool:
        lowered = _nfd(text).lower()
        likely = [joined for probe, joined in wanted if probe in lowered]
        if not likely:  # most passages: cutting them into tokens takes a hundred times as long
            return False
        all_of_it = _joined(text)
        return any(joined in all_of_it for joined in likely)

    return found


def _compiled(answer: str) -> re.Pattern[str] | None:
    try:
        return re.compile(_nfd(answer), re.IGNORECASE | re.MULTILINE)
    except (re.error, RecursionError, OverflowError):
        return None


def _probe(answer: str) -> str:
    """The longest token of an answer: a text that lacks it, in lower case, cannot hold the answer.

    A token with a sigma is no such thing: how that is lowered depends on what stands beside it in the text.
    """
    return max((token for token in tokens(answer) if not {"σ", "ς"} & set(token)), key=len, default="")


def _nfd(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFD", text)


def _joined(text: str) -> str:
    """The tokens in lower case with a separator before, between and after; one separator alone where there is none.

    Lowering them together is lowering each alone: no rule of case reaches over a control character.
    """
    found = _ASCII.findall(text) if text.isascii() else _unicode_pattern().findall(_nfd(text))
    return _BETWEEN.join(["", *found, ""]).lower() if found else _BETWEEN


@lru_cache(maxsize=1)
def _unicode_pattern() -> re.Pattern[str]:
    """``[\\p{L}\\p{N}\\p{M}]+|[^\\p{Z}\\p{C}]``, for which `re` has no names, as ranges of code points."""
    spans: dict[str, list[str]] = {"word": [], "blank": []}
    kinds = {"L": "word", "N": "word", "M": "word", "Z": "blank", "C": "blank"}
    for kind, points in groupby(range(0x110000), key=lambda p: kinds.get(unicodedata.category(chr(p))[0])):
        if kind:
            first, *rest = points
            spans[kind].append(f"\\U{first:08x}-\\U{rest[-1] if rest else first:08x}")
    return re.compile(f"[{''.join(spans['word'])}]+|[^{''.join(spans['blank'])}]")
