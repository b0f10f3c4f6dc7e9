"""JSON, line by line or as one list, read strictly: duplicate keys, NaN and deep nesting are problems, no surprises."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._lines import MAX_LINE, read_lines, read_text_chunks
from .policy import Reading, shown

_FIX = "write one JSON object a line"
_MARKS = re.compile(r'"(?:[^"\\]++|\\.)*+"|["{}\[\],]', re.DOTALL)  # a lone quote: its string ends in the next chunk


class JsonParser:
    """Parses one JSON value at a time under the policies of one `Reading`."""

    def __init__(self, reading: Reading) -> None:
        self._reading, self._where = reading, ""
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def parse(self, line: str, where: str) -> dict[str, Any] | None:
        """The object that `line` holds, or None where lenient reading skips it.

        Raises:
            DataError: when strict: not JSON, not an object, duplicate keys, NaN, too deep, a huge integer.
        """
        value = self.value(line, where)
        if value is not None and not isinstance(value, dict):
            self._reading.problem("wrong type", f"not a JSON object: {shown(line)}", where=where, fix=_FIX)
            return None
        return value

    def value(self, line: str, where: str) -> Any:
        """The value that `line` holds, of any type; None where lenient reading skips it.

        Raises:
            DataError: as `parse`; and for null, which is no record.
        """
        self._where, problem = where, self._reading.problem
        try:
            value = self._decoder.decode(line)
        except json.JSONDecodeError as error:
            what = f"not JSON: {error.msg} at column {error.colno}: {shown(line[max(error.pos - 20, 0) :])}"
            problem("malformed JSON", what, where=where, fix=_FIX)
            return None
        except RecursionError:
            problem("JSON nesting", f"nested too deep: {shown(line)}", where=where, fix=_FIX)
            return None
        except ValueError:  # Python's own limit against quadratic conversion
            problem("huge integer", f"an integer of too many digits in {shown(line)}", where=where, fix="shorten it")
            return None
        if value is None:
            problem("wrong type", f"not a JSON object: {shown(line)}", where=where, fix=_FIX)
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            what = f"the key {shown(twice)} occurs twice in one object"
            self._reading.problem("duplicate JSON key", what, where=self._where, fix="keep one of them")
        return made

    def _constant(self, text: str) -> float:
        what = f"{text} is not a JSON number"
        self._reading.problem("NaN in JSON", what, where=self._where, fix="write null or leave the field out")
        return float(text)

    def _float(self, text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else self._infinite(text, value)

    def _infinite(self, text: str, value: float) -> float:
        what = f"{shown(text)} is beyond the range of float64"
        self._reading.problem("NaN in JSON", what, where=self._where, fix="write a smaller number")
        return value


def read_jsonl(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every record of a JSON lines file; what lenient reading skips is left out.

    Raises:
        DataError: as `JsonParser.parse`, and for a missing, damaged or badly encoded file.
    """
    parser = JsonParser(reading)
    for number, line in read_lines(path, reading):
        record = parser.parse(line, f"{path}:{number}")
        if record is not None:
            yield number, record


def read_json_list(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every element of a file that is one JSON list; one element at a time is in memory.

    Raises:
        DataError: as `read_jsonl`, and where the list does not begin, end or hold together.
    """
    parser = JsonParser(reading)
    for number, element in _elements(path, reading):
        record = parser.parse(element, f"{path}:{number}")
        if record is not None:
            yield number, record


def read_json_strings(path: Path, reading: Reading) -> Iterator[tuple[int, str | None]]:
    """(line number, text) of every element of a file that is one JSON list of strings; None where lenient skips it.

    Raises:
        DataError: as `read_json_list`, and for an element that is no string.
    """
    parser = JsonParser(reading)
    for number, element in _elements(path, reading):
        where = f"{path}:{number}"
        value = parser.value(element, where)
        if value is not None and not isinstance(value, str):
            reading.problem("wrong type", f"not a string: {shown(element)}", where=where, fix="write a list of strings")
            value = None
        yield number, value


def _elements(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """(line number, text) of what stands between the commas of the outermost list."""
    text, scan, begin, line, depth, ended = "", 0, 0, 1, 0, False  # marks before `scan` are dealt with
    for chunk in read_text_chunks(path, reading):
        text += chunk
        upto = len(text)
        for mark in _MARKS.finditer(text, scan):
            sign, at = mark.group(), mark.start()
            if sign == '"':
                upto = at  # the rest of this string is still to come
                break
            if depth == 0 and (ended or sign != "[" or text[begin:at].strip()):
                return _not_a_list(path, line + text.count("\n", 0, at), text[begin : at + 20], reading)
            depth += 1 if sign in "[{" else -1 if sign in "]}" else 0
            if (sign == "," and depth == 1) or (sign in "]}" and depth == 0):
                element = text[begin:at].strip()
                if element or sign == ",":
                    first = len(text[:at]) - len(text[begin:at].lstrip())
                    yield line + text.count("\n", 0, first), element
                begin, ended = at + 1, depth == 0
            elif sign == "[" and depth == 1:
                begin = at + 1
        line += text.count("\n", 0, begin)
        text, scan, begin = text[begin:], upto - begin, 0
        if len(text) > MAX_LINE:
            what = f"an element of the list is longer than {MAX_LINE:,} characters"
            reading.problem("long line", what, where=f"{path}:{line}", fix="close the bracket or string that is open")
    if not ended or text.strip():
        _not_a_list(path, line, text[-20:], reading)
    return None


def _not_a_list(path: Path, line: int, text: str, reading: Reading) -> None:
    what = f"not one JSON list from [ to ]: {shown(text.strip())}"
    reading.problem("malformed JSON", what, where=f"{path}:{line}", fix="write [{...}, {...}], or one object a line")
