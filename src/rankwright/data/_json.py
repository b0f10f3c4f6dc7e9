"""JSON lines, read strictly: duplicate keys, NaN, deep nesting and huge integers are problems, not surprises."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._lines import read_lines
from .policy import Reading, shown

_FIX = "write one JSON object a line"


class JsonParser:
    """Parses one JSON object at a time under the policies of one `Reading`."""

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
        if not isinstance(value, dict):
            problem("wrong type", f"not a JSON object: {shown(line)}", where=where, fix=_FIX)
            return None
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
