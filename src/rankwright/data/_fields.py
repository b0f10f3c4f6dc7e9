"""The rules for single fields: ids, texts, titles, scores, grades, ranks; and which ids were met before."""

from __future__ import annotations

import math
import re
from array import array
from typing import Any

import numpy as np
import xxhash

from ._lines import without_nul
from .policy import Reading, shown

NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
BAD_ID = re.compile("[\\s\0\ufeff\ud800-\udfff]")  # U+FEFF: at the start of a file it would read as its BOM
LARGEST_GRADE = 2**31 - 1
_LARGEST = float(np.finfo(np.float64).max)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile("[\\s\ufeff]")


def is_clean_id(value: str) -> bool:
    """Whether an id can be written to every format: not empty, no white space, NUL or surrogates."""
    return bool(value) and BAD_ID.search(value) is None


def check_id(value: Any, name: str, where: str, reading: Reading) -> str | None:
    """The id, or None where lenient reading skips the record; `name` says which id, e.g. "document id"."""
    text = _string(value, name, where, reading)
    if text is None or is_clean_id(text):
        return text
    text = _without_surrogates(without_nul(text, where, reading), where, reading)
    if not text or text.isspace():
        reading.problem("empty id", f"the {name} is empty", where=where, fix="give every record an id")
        return None
    if _SPACE.search(text):
        what = f"the {name} {shown(text)} has white space in it"
        reading.problem("white space in id", what, where=where, fix="use ids without spaces and tabs")
        return _SPACE.sub("_", text)
    return text


def check_text(value: Any, where: str, reading: Reading) -> str | None:
    """The text, or None where lenient reading skips the record. It may be empty: see `check_empty`."""
    text = _string(value, "text", where, reading)
    return None if text is None else _clean(text, where, reading)


def check_title(value: Any, where: str, reading: Reading) -> str:
    """The title; absent, null and (lenient) what cannot be one are empty."""
    if value is None:
        return ""
    text = _string(value, "title", where, reading)
    return "" if text is None else _clean(text, where, reading)


def check_empty(title: str, text: str, where: str, reading: Reading) -> None:
    """A record with neither title nor text is a problem; it is kept."""
    if (not text or text.isspace()) and (not title or title.isspace()):
        reading.problem("empty text", "the text is empty", where=where, fix="remove the record or give it a text")


def check_score(value: Any, where: str, reading: Reading) -> float | None:
    """A finite score, or None where lenient reading skips the row."""
    number = _number(value, where, reading)
    if number is None or math.isfinite(number):
        return number
    reading.problem("infinite score", f"the score {shown(value)} is infinite", where=where, fix="use finite scores")
    return math.copysign(_LARGEST, number)


def check_grade(value: Any, where: str, reading: Reading) -> float | None:
    """A whole grade, or None where lenient reading skips the row. `value` is text, int or float."""
    number = _number(value, where, reading)
    if number is None:
        return None
    if math.isinf(number):
        reading.problem("not a number", f"the grade {shown(value)} is infinite", where=where, fix="use whole grades")
        return None
    if abs(number) > LARGEST_GRADE:
        reading.problem("huge grade", f"the grade {shown(value)} is too large", where=where, fix="use small grades")
        return None
    if number != math.trunc(number):
        what = f"the grade {shown(value)} is not a whole number"
        reading.problem("fractional grade", what, where=where, fix="use whole grades, e.g. 0, 1, 2, 3")
    return float(math.trunc(number))


def _number(value: Any, where: str, reading: Reading) -> float | None:
    number: float | None
    if isinstance(value, str):
        number = _parsed(value)
    elif isinstance(value, float):
        number = value
    elif isinstance(value, int) and not isinstance(value, bool):
        number = float(value) if abs(value) <= _LARGEST else math.inf if value > 0 else -math.inf
    else:
        what = f"the score is no number but {shown(value)}"
        reading.problem("wrong type", what, where=where, fix="write scores as numbers")
        return None
    if number is None:
        what = f"{shown(value)} is not a number"
        reading.problem("not a number", what, where=where, fix="write scores and grades as decimal numbers, e.g. 1.5")
    elif math.isnan(number):
        reading.problem("NaN score", f"the score {shown(value)} is NaN", where=where, fix="remove the row or score it")
    return number


def _parsed(text: str) -> float | None:
    if NUMBER.fullmatch(text):
        return float(text)
    word = text.lower().removeprefix("+").removeprefix("-")
    return float(text) if word in ("nan", "inf", "infinity") and len(text) - len(word) <= 1 else None


def _string(value: Any, name: str, where: str, reading: Reading) -> str | None:
    if type(value) is str:
        return value
    if value is None:
        reading.problem("missing field", f"the {name} is missing", where=where, fix=f"give the record its {name}")
        return None
    what = f"the {name} is no string but {shown(value)}"
    reading.problem("wrong type", what, where=where, fix=f'write it as a string, e.g. "{name}"')
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _clean(text: str, where: str, reading: Reading) -> str:
    text = without_nul(text, where, reading)
    return text if text.isascii() else _without_surrogates(text, where, reading)


def _without_surrogates(text: str, where: str, reading: Reading) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"half of a surrogate pair at character {error.start + 1} of {shown(text)}"
        reading.problem("lone surrogate", what, where=where, fix="write the whole character")
        return _SURROGATE.sub("\ufffd", text)
    return text


class Seen:
    """Which ids were met, by 64-bit fingerprint in an open-addressing table: 16 to 32 bytes an id, not a string each.

    Two ids of ten million share a fingerprint with probability 3e-6.
    """

    def __init__(self) -> None:
        self._slots, self._count = array("Q", bytes(8 * 1024)), 0

    def add(self, name: str) -> bool:
        """Remember an id; whether it is new."""
        if not _insert(self._slots, xxhash.xxh3_64_intdigest(name.encode()) or 1):  # 0 marks a free slot
            return False
        self._count += 1
        if 2 * self._count > len(self._slots):
            old, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
            for fingerprint in filter(None, old):
                _insert(self._slots, fingerprint)
        return True


def _insert(slots: array[int], fingerprint: int) -> bool:
    last = len(slots) - 1  # the length is a power of two
    place = fingerprint & last
    while slots[place]:
        if slots[place] == fingerprint:
            return False
        place = (place + 1) & last
    slots[place] = fingerprint
    return True
