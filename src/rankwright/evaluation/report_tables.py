"""Tables of a report on their own: for a terminal, for LaTeX, for Markdown, for a web page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import report_html, report_markdown
from .report_blocks import Cell, Table, clean
from .report_data import Report
from .report_sections import results

_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "→": r"$\rightarrow$",
    "·": r"$\cdot$", "…": r"\dots{}", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip


def render_tables(report: Report, kind: str) -> str:
    """The results of a report in one of `FORMATS`."""
    return FORMATS[kind](results(report))


def _markdown(tables: Sequence[Table]) -> str:
    return "\n\n".join(part for table in tables for part in report_markdown.table(table))


def _html(tables: Sequence[Table]) -> str:
    return "\n".join(report_html.table(table) for table in tables)


def _text(tables: Sequence[Table]) -> str:
    return "\n\n".join(map(_plain, tables))


def _plain(table: Table) -> str:
    def shown(cell: Cell) -> str:
        small = f" ({cell.small})" if cell.small and not cell.small.startswith("[") else f" {cell.small}".rstrip()
        star = "*" if cell.strong and "Bold" in table.note else ""
        return clean(cell.text + star + (f"^{cell.mark}" if cell.mark else "") + small)

    rows = [list(map(clean, table.columns)), *([shown(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]

    def line(cells: Sequence[str]) -> str:
        places = enumerate(zip(cells, widths))
        return "  ".join(c.rjust(w) if i in table.numbers else c.ljust(w) for i, (c, w) in places).rstrip()

    rule = "  ".join("-" * width for width in widths)
    parts = [clean(table.title), line(rows[0]), rule, *map(line, rows[1:]), clean(table.note.replace("Bold", "*"))]
    return "\n".join(part for part in parts if part)


def _latex(tables: Sequence[Table]) -> str:
    return "\n\n".join(map(_tabular, tables))


def _tabular(table: Table) -> str:
    """A `table` with `booktabs` rules; intervals stand small behind their value."""
    columns = "".join("r" if i in table.numbers else "l" for i in range(len(table.columns)))
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small"]
    lines += [rf"\caption{{{_escaped(table.title)}}}"] if table.title else []
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(_escaped, table.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {_escaped(table.note)}"] if table.note else []
    return "\n".join([*lines, r"\end{table}"])


def _cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    if cell.strong and text:
        text = rf"\textbf{{{text}}}"
    if cell.mark:
        text += rf"\textsuperscript{{{_escaped(cell.mark)}}}"
    return text + (rf" {{\scriptsize {_escaped(cell.small)}}}" if cell.small else "")


def _escaped(text: str) -> str:
    return "".join(_SIGNS.get(c, c) for c in " ".join(clean(text).split()))


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "text": _text, "markdown": _markdown, "latex": _latex, "html": _html,
}  # fmt: skip
