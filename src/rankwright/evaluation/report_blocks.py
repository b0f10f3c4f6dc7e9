"""The blocks a report is built of and how its numbers are written; both renderers read only these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "good", "bad", "muted", "warning"]

# --- numbers and texts -----------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """`text` without what no page should hold: controls, bidirectional overrides, lone surrogates become U+FFFD."""
    return "".join("\ufffd" if _unfit(ord(c)) else c for c in text.replace("\r\n", "\n"))


def _unfit(code: int) -> bool:
    control = code < 32 or 0x7F <= code < 0xA0
    return (control and code not in (9, 10)) or 0x202A <= code <= 0x202E or 0xD800 <= code < 0xE000


def shorten(text: str, length: int = 200) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def number(value: float | None) -> str:
    """A measure to three decimals; large numbers with thousands separators; nothing known is a dash."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return text.replace("-", "−")


def compact(value: float) -> str:
    """Four significant digits: losses and learning rates share one column."""
    if not math.isfinite(value):
        return number(value)
    return f"−{-value:.4g}" if value < 0 else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference, always with its sign."""
    text = number(value)
    return f"+{text}" if value > 0 else text


def interval(bounds: tuple[float, float] | None, *, differences: bool = False) -> str:
    """``[low, high]``; of differences with signs."""
    if bounds is None or any(math.isnan(bound) for bound in bounds):
        return "–"
    write = signed if differences else number
    return f"[{write(bounds[0])}, {write(bounds[1])}]"


def p_value(p: float) -> str:
    """Three decimals, four for the very small; a test that could not be made is a dash."""
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def p_words(p: float) -> str:
    """The p-value inside a sentence: ``p = 0.012``."""
    return f"p {p_value(p)}" if p < 0.0001 else f"p = {p_value(p)}"


def value_text(value: str | int | float) -> str:
    """A fact of the data check."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else compact(value)


def tone(difference: float) -> Tone:
    """Whether a difference is a gain or a loss."""
    return "good" if difference > 0 else "bad" if difference < 0 else "muted"


# --- blocks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One place of a table: text, a superscript, a quieter second part, and stacked bars as (share of 1, tone)."""

    text: str
    mark: str = ""
    small: str = ""
    strong: bool = False
    tone: Tone = ""
    bars: tuple[tuple[float, Tone], ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the columns whose index is in `numbers` are aligned to the right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Tile:
    """One key figure with what it was before."""

    label: str
    value: str
    change: str
    before: str
    tone: Tone


@dataclass(frozen=True)
class Tiles:
    """The key figures at a glance; the tables say the same in full."""

    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Plot:
    """An inline SVG with its caption; `legend` holds (label, series) for plots of several lines."""

    svg: str
    title: str
    caption: str
    legend: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    text: str
    language: str


@dataclass(frozen=True)
class Rank:
    """One line of a ranking, as shown."""

    doc_id: str
    text: str
    score: str
    grade: str  # empty where unjudged
    relevant: bool


@dataclass(frozen=True)
class Ranking:
    """The top documents of one system for one query."""

    system: str
    ranks: tuple[Rank, ...]


@dataclass(frozen=True)
class Example:
    """One query with its change, its relevant documents (text, movement) and the rankings before and after."""

    query_id: str
    query: str
    change: str
    tone: Tone
    values: str
    relevant: tuple[tuple[Rank, str], ...]
    rankings: tuple[Ranking, Ranking]


@dataclass(frozen=True)
class Examples:
    """Queries of one kind, in order."""

    title: str
    note: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Fold:
    """Something long that opens on demand."""

    summary: str
    blocks: tuple[Block, ...]
    opened: bool = False


Block = Text | Tiles | Table | Plot | Code | Examples | Fold


@dataclass(frozen=True)
class Section:
    """A headed part of the page; `anchor` is its address within it."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """The whole report, ready to be rendered."""

    title: str
    subtitle: str
    headline: str
    remarks: tuple[str, ...]
    tiles: Tiles
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
