"""What happens at every edge case of an input file: one table, and the object that applies it to one command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError

_EXAMPLES = 3
_SHOWN = 60


class Policy(NamedTuple):
    """One row of the table: where the case occurs, what it is, and what is done about it.

    ``strict`` is "error" or "accepted"; ``lenient`` is "error", "accepted" or the repair in words.
    """

    applies: str
    description: str
    strict: str
    lenient: str


_ANY, _JSON, _COLUMNS, _TEXTS = "any file", "JSONL", "TSV, TREC, Parquet", "corpus, queries"
_TABLES, _QRELS, _RUN, _BETWEEN = "qrels, run", "qrels", "run", "between files"
_SKIPPED = "record skipped"
_OK = "accepted"

POLICIES: dict[str, Policy] = {
    "missing file": Policy(_ANY, "does not exist, is a folder or may not be read", "error", "error"),
    "corrupt file": Policy(_ANY, "gzip, Zstandard or Parquet data cut short or damaged", "error", "error"),
    "unknown format": Policy(_ANY, "compressed Parquet (Parquet compresses by itself)", "error", "error"),
    "empty file": Policy(_ANY, "holds no record", "error", "taken as empty"),
    "long line": Policy(_ANY, "a line of more than 64 MiB", "error", "error"),
    "invalid UTF-8": Policy(_ANY, "bytes that are not UTF-8, e.g. Latin-1 or UTF-16", "error", "replaced by U+FFFD"),
    "NUL": Policy(_ANY, "NUL bytes, raw or as `\\u0000`", "error", "removed"),
    "lone surrogate": Policy(_ANY, "half of a surrogate pair, e.g. `\\ud800`", "error", "replaced by U+FFFD"),
    "byte order mark": Policy(_ANY, "a UTF-8 BOM at the start is not part of the data", _OK, _OK),
    "CRLF": Policy(_ANY, "lines that end as on Windows", _OK, _OK),
    "blank line": Policy(_ANY, "is passed over", _OK, _OK),
    "malformed JSON": Policy(_JSON, "a line that is not a JSON value", "error", _SKIPPED),
    "JSON nesting": Policy(_JSON, "nested beyond Python's recursion limit", "error", _SKIPPED),
    "huge integer": Policy(_JSON, "an integer of more than 4,300 digits", "error", _SKIPPED),
    "NaN in JSON": Policy(_JSON, "`NaN`, `Infinity` or `1e999`", "error", "kept; the rule of its field decides"),
    "duplicate JSON key": Policy(_JSON, "the same key twice in one object", "error", "the last one counts"),
    "malformed CSV": Policy("CSV", "quotation marks that do not pair, a column name twice", "error", _SKIPPED),
    "id without grade": Policy(
        "synthetic corpora", "an id that is not `<query>_l_<level>_d_<number>`", "error", _SKIPPED
    ),
    "unknown field": Policy("JSONL, Parquet", "fields beyond the ones needed are not read", _OK, _OK),
    "missing title": Policy(_TEXTS, "absent or null: the title is empty", _OK, _OK),
    "missing field": Policy("JSONL, Parquet", "a needed field is absent or null", "error", _SKIPPED),
    "wrong type": Policy(
        "JSONL, Parquet",
        "a record that is no object, an id or text that is no string, a grade that is no number",
        "error",
        "integers are read as text, another title as empty; else record skipped",
    ),
    "missing column": Policy("Parquet", "no column of a needed name", "error", "error"),
    "wrong number of columns": Policy(
        "TSV, TREC, grouped JSONL",
        "more or fewer columns than the format has; lists of unequal length",
        "error",
        _SKIPPED,
    ),
    "missing header": Policy("TSV", "without a header the columns have their usual order", _OK, _OK),
    "empty id": Policy("all but TREC", "an id that is empty or only white space", "error", _SKIPPED),
    "white space in id": Policy("all but TREC", "cannot be written to a TREC file", "error", "each becomes `_`"),
    "duplicate id": Policy(_TEXTS, "a second record with the same id", "error", "the first one counts"),
    "empty text": Policy(_TEXTS, "neither title nor text", "error", "kept"),
    "not a number": Policy(
        _TABLES, "a score or grade such as `xyz`, `1_0` or `0x1p3`; in qrels also `Inf`", "error", _SKIPPED
    ),
    "NaN score": Policy(_TABLES, "has no place in an order", "error", "error"),
    "infinite score": Policy(_RUN, "`Inf` or beyond the range of float64", "error", "becomes the largest float64"),
    "negative grade": Policy(_QRELS, "judged, not relevant, as in trec_eval", _OK, _OK),
    "grade with a point": Policy(_QRELS, "`1.0` is the grade 1", _OK, _OK),
    "fractional grade": Policy(
        _QRELS, "not a whole number, e.g. `0.5`", "error", "cut to a whole number, as in trec_eval"
    ),
    "huge grade": Policy(_QRELS, "beyond 2,147,483,647", "error", _SKIPPED),
    "duplicate pair": Policy(_QRELS, "a pair listed again with the same grade", "error", "counts once"),
    "contradicting grades": Policy(_QRELS, "a pair listed again with another grade", "error", "the highest counts"),
    "contradicting scores": Policy(
        "scores", "a pair scored again, more than 1 % (and 0.01) away", "error", "the highest counts"
    ),
    "duplicate document": Policy(_RUN, "a document twice for one query", "error", "the highest score counts"),
    "bad rank": Policy(
        _RUN, "a rank that is not a whole number", "error", "not looked at where there is a score; else record skipped"
    ),
    "query not judged": Policy(
        _BETWEEN, "the run answers a query that the qrels lack: left out, as in trec_eval", _OK, _OK
    ),
    "missing document": Policy(
        _BETWEEN,
        "qrels or run name a document that the corpus lacks",
        "error",
        "stays in measures as not found; not trained on",
    ),
    "missing query": Policy(_BETWEEN, "qrels or run name a query without a text", "error", "left out"),
}


def shown(value: object) -> str:
    """A value as error messages quote it: its repr, cut where it is long."""
    if isinstance(value, str | bytes) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}..."
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**_SHOWN else "a huge integer"
    return text if len(text) <= _SHOWN + 2 else f"{text[:_SHOWN]}..."


class Reading:
    """How strictly one command reads its inputs, and which problems it met.

    Strict (the default) turns the first problem into a `DataError`; lenient does what `POLICIES` says and counts it.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self.lenient = lenient
        self.counts: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def problem(self, kind: str, what: str, *, where: str | Path, fix: str) -> None:
        """Raise or count one problem; when this returns, the caller does what the table's lenient column says.

        Args:
            kind: a key of `POLICIES` that is not accepted.
            what: one sentence with the offending value.
            where: ``file:line`` or the file.
            fix: how to repair the file; the way out by ``--lenient`` is added where there is one.

        Raises:
            DataError: when strict, or when even lenient reading stops here.
        """
        policy = POLICIES[kind]
        assert policy.strict == "error", f"'{kind}' is accepted: it is no problem"
        if policy.lenient == "error":
            raise DataError(what, where=where, fix=fix)
        if not self.lenient:
            raise DataError(what, where=where, fix=f"{fix}; or read with --lenient ({policy.lenient})")
        self.counts[kind] += 1
        self._keep(kind, f"{where}: {what}")

    def note(self, kind: str, example: str) -> None:
        """Count what was left out or repaired as the user asked: no problem, but nothing to be silent about."""
        self.notes[kind] += 1
        self._keep(kind, example)

    def met(self) -> list[tuple[str, int, list[str]]]:
        """(kind, count, examples) of the problems so far: what an artefact keeps of its making."""
        return [(kind, count, self.examples.get(kind, [])) for kind, count in sorted(self.counts.items())]

    def include(self, met: Iterable[tuple[str, int, list[str]]]) -> None:
        """Count what another reading met, as when what it made is used again."""
        for kind, count, examples in met:
            self.counts[kind] += count
            self.examples.setdefault(kind, []).extend(examples)

    def _keep(self, kind: str, example: str) -> None:
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)


def policy_table() -> str:
    """`POLICIES` as the Markdown table of docs/data.md."""
    rows = ["| case | in | what it is | strict | `--lenient` |", "| --- | --- | --- | --- | --- |"]
    rows += [f"| {kind} | {p.applies} | {p.description} | {p.strict} | {p.lenient} |" for kind, p in POLICIES.items()]
    return "\n".join(rows) + "\n"
