"""The report as Markdown: the same blocks and numbers as the page, readable as plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .report_blocks import Block, Cell, Code, Example, Examples, Fold, Page, Rank, Table, Text, clean, shorten


def render(page: Page) -> str:
    """The whole document."""
    parts = [f"# {_escape(page.title)}", _escape(page.subtitle)]
    if page.warnings:
        parts.append("\n".join(["> **Warnings**", ">", *(f"> - {_escape(warning)}" for warning in page.warnings)]))
    parts.append(f"**{_escape(page.headline)}**")
    parts += [_escape(remark) for remark in page.remarks]
    parts.append("\n".join(
        f"- {_escape(tile.label)}: **{tile.value}** ({tile.change} {tile.before})" for tile in page.tiles.tiles
    ))  # fmt: skip
    for section in page.sections:
        inner = _blocks(section.blocks)
        if inner:
            parts += [f"## {_escape(section.title)}", *inner]
    return "\n\n".join(part for part in parts if part) + "\n"


def _escape(text: str) -> str:
    """One line in which nothing is markup, neither Markdown's nor HTML's; what is harmless stays as it is."""
    line = " ".join(clean(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))", r"\\\1", line)
    line = re.sub(r"^(#+|[+=-])(?=[\s=-]|$)", r"\\\1", line)  # a heading, a list, a rule
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)


def _blocks(blocks: Sequence[Block]) -> list[str]:
    """The paragraphs of the blocks; plots live on the page only, tables say the same."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Text):
            parts.append(f"{'⚠ ' if block.tone == 'warning' else ''}{_escape(block.text)}")
        elif isinstance(block, Table):
            parts += table(block)
        elif isinstance(block, Code):
            parts.append(_code(block))
        elif isinstance(block, Examples):
            parts += [f"### {_escape(block.title)}", _escape(block.note)]
            parts += [part for example in block.examples for part in _example(example)]
        elif isinstance(block, Fold):
            parts += [f"### {_escape(block.summary)}", *_blocks(block.blocks)]
    return parts


def table(table: Table) -> list[str]:
    """The paragraphs of one table: title, rows, note."""
    head = f"| {' | '.join(_escape(name) for name in table.columns)} |"
    rule = f"| {' | '.join('---:' if i in table.numbers else '---' for i in range(len(table.columns)))} |"
    rows = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in table.rows]
    parts = [f"**{_escape(table.title)}**"] if table.title else []
    parts.append("\n".join([head, rule, *rows]))
    return [*parts, _escape(table.note)] if table.note else parts


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    if cell.strong and text:
        text = f"**{text}**"
    if cell.mark:
        text += f" <sup>{_escape(cell.mark)}</sup>"
    if cell.small:
        small = _escape(cell.small)
        text += f" {small}" if small.startswith("[") else f" ({small})"
    return f"⚠ {text}" if cell.tone == "warning" else text


def _code(code: Code) -> str:
    """A fence longer than any run of backticks inside."""
    text = clean(code.text).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{code.language}\n{text}\n{fence}"


def _example(example: Example) -> list[str]:
    values = f"{_escape(example.values)}; " if example.values else ""
    parts = [f"#### {_escape(example.change)}: {_escape(example.query)}", f"{values}query {_escape(example.query_id)}"]
    if example.relevant:
        lines = [
            f"- relevant, grade {_escape(rank.grade)}, {_escape(moved)}: {_escape(rank.text)} ({_escape(rank.doc_id)})"
            for rank, moved in example.relevant
        ]
        parts.append("\n".join(lines))
    before, after = example.rankings
    rows = ["| Rank | " + f"{_escape(before.system)} | {_escape(after.system)} |", "| ---: | --- | --- |"]
    for i in range(max(len(before.ranks), len(after.ranks))):
        sides = (_doc(ranking.ranks[i]) if i < len(ranking.ranks) else "" for ranking in (before, after))
        rows.append(f"| {i + 1} | {' | '.join(sides)} |")
    return [*parts, "\n".join(rows)] if len(rows) > 2 else parts


def _doc(rank: Rank) -> str:
    grade = f", {'relevant, ' if rank.relevant else ''}grade {_escape(rank.grade)}" if rank.grade else ""
    text = f"{_escape(shorten(rank.text, 120))} ({_escape(rank.doc_id)}, score {_escape(rank.score)}{grade})"
    return f"**{text}**" if rank.relevant else text
