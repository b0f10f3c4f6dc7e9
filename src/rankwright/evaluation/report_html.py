"""The report as one HTML file that loads nothing, runs nothing and escapes everything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from .plots import DASHES
from .report_blocks import (
    Block,
    Cell,
    Code,
    Example,
    Examples,
    Fold,
    Page,
    Plot,
    Rank,
    Ranking,
    Section,
    Table,
    Text,
    Tiles,
    clean,
)
from .report_style import STYLE

# A second lock behind the escaping: a browser told this runs no script and fetches nothing, whatever the page holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"


def render(page: Page) -> str:
    """The whole document."""
    nav = "".join(f'<a href="#{s.anchor}">{_escape(s.title)}</a>' for s in page.sections)
    warnings = ""
    if page.warnings:
        items = "".join(f"<li>{_escape(warning)}</li>" for warning in page.warnings)
        warnings = f'<div class="warnings" role="note"><strong>Warnings</strong><ul>{items}</ul></div>'
    remarks = "".join(f"<p>{_escape(remark)}</p>" for remark in page.remarks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{_escape(page.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<h1>{_escape(page.title)}</h1>\n<p class="subtitle">{_escape(page.subtitle)}</p>\n'
        f'{warnings}\n<div class="headline"><p class="sentence">{_escape(page.headline)}</p>{remarks}</div>\n'
        f"{_tiles(page.tiles)}\n<nav>{nav}</nav>\n</header>\n"
        + "\n".join(_section(section) for section in page.sections)
        + "\n<footer>Made by Rankwright. This file is complete in itself: no scripts, nothing is loaded.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _escape(text: str) -> str:
    return html.escape(clean(text), quote=True)


def _section(section: Section) -> str:
    title = _escape(section.title)
    return f'<section id="{section.anchor}">\n<h2>{title}</h2>\n{_blocks(section.blocks)}\n</section>'


def _blocks(blocks: Sequence[Block]) -> str:
    """The blocks in order; plots that follow each other share a grid."""
    parts: list[str] = []
    plots: list[str] = []
    for block in [*blocks, None]:
        if isinstance(block, Plot):
            plots.append(_plot(block))
            continue
        if plots:
            parts.append(f'<div class="plots">{"".join(plots)}</div>')
            plots = []
        if block is not None:
            parts.append(_block(block))
    return "\n".join(parts)


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f'<p class="{block.tone or "plain"}">{_escape(block.text)}</p>'
    if isinstance(block, Tiles):
        return _tiles(block)
    if isinstance(block, Table):
        return table(block)
    if isinstance(block, Plot):
        return _plot(block)
    if isinstance(block, Code):
        return f"<pre><code>{_escape(block.text)}</code></pre>"
    if isinstance(block, Examples):
        return _examples(block)
    assert isinstance(block, Fold)
    opened = " open" if block.opened else ""
    summary = f"<summary>{_escape(block.summary)}</summary>"
    return f'<details class="fold"{opened}>{summary}\n{_blocks(block.blocks)}\n</details>'


def _tiles(tiles: Tiles) -> str:
    if not tiles.tiles:
        return ""
    inner = "".join(
        f'<div class="tile"><div class="label">{_escape(tile.label)}</div>'
        f'<div class="value">{_escape(tile.value)}</div>'
        f'<div class="change"><b class="{tile.tone}">{_escape(tile.change)}</b>'
        f'<span class="quiet">{_escape(tile.before)}</span></div></div>'
        for tile in tiles.tiles
    )
    return f'<div class="tiles">{inner}</div>'


def table(table: Table) -> str:
    """One table with its caption and note."""

    def align(i: int) -> str:
        return ' class="n"' if i in table.numbers else ""

    head = "".join(f'<th scope="col"{align(i)}>{_escape(name)}</th>' for i, name in enumerate(table.columns))
    rows = "\n".join(
        f"<tr>{''.join(f'<td{align(i)}>{_cell(cell)}</td>' for i, cell in enumerate(row))}</tr>" for row in table.rows
    )
    caption = f"<caption>{_escape(table.title)}</caption>" if table.title else ""
    note = f'<p class="note">{_escape(table.note)}</p>' if table.note else ""
    look = ' class="narrow"' if len(table.columns) <= 3 else ""
    marks = max((len(cell.mark) for row in table.rows for cell in row), default=0)
    if marks:  # room for the superscripts, which stand beside the aligned digits
        look = f' class="marked" style="--marks:{0.45 * marks + 0.2:.2f}rem"'
    return (
        f'<div class="scroll"><table{look}>{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    if cell.tone:
        text = f'<span class="{cell.tone}">{text}</span>'
    if cell.strong:
        text = f"<strong>{text}</strong>"
    if cell.mark:
        text += f"<sup>{_escape(cell.mark)}</sup>"
    if cell.small:
        text += f"<small>{_escape(cell.small)}</small>"
    if cell.bars:
        bars = "".join(f'<i class="{tone}" style="width:{100 * share:.1f}%"></i>' for share, tone in cell.bars if share)
        text += f'<div class="bars" aria-hidden="true">{bars}</div>'
    return text


def _plot(plot: Plot) -> str:
    legend = "".join(f"<span>{_key(series)}{_escape(label)}</span>" for label, series in plot.legend)
    legend = f'<div class="legend">{legend}</div>' if legend else ""
    svg = plot.svg.replace("<svg", f'<svg role="img" aria-label="{_escape(plot.title)}"', 1)
    caption = f"<span>{_escape(plot.caption)}</span>" if plot.caption else ""
    return f"<figure><figcaption><b>{_escape(plot.title)}</b>{caption}{legend}</figcaption>\n{svg}\n</figure>"


def _key(series: int) -> str:
    """The line of a legend's entry, dashed and coloured as in the plot."""
    i = series % len(DASHES)
    dash = f' stroke-dasharray="{DASHES[i]}"' if DASHES[i] else ""
    line = f'<path d="M1 5H29" fill="none" style="stroke:var(--s{i})" stroke-width="2.2"{dash}/>'
    return f'<svg viewBox="0 0 30 10" aria-hidden="true">{line}</svg>'


# --- example queries -------------------------------------------------------------------------------------------------


def _examples(block: Examples) -> str:
    inner = "\n".join(_example(example, i == 0) for i, example in enumerate(block.examples))
    return f'<h3>{_escape(block.title)}</h3>\n<p class="note">{_escape(block.note)}</p>\n{inner}'


def _example(example: Example, opened: bool) -> str:
    values = f"{_escape(example.values)} · " if example.values else ""
    relevant = _list("ul", (_doc("", rank, moved) for rank, moved in example.relevant))
    none = '<p class="note">None is known.</p>'
    sides = "".join(_ranking(ranking) for ranking in example.rankings)
    return (
        f'<details class="example"{" open" if opened else ""}>'
        f'<summary><span class="badge {example.tone}">{_escape(example.change)}</span>'
        f'<span class="query" dir="auto">{_escape(example.query)}</span></summary>\n<div class="inside">'
        f'<div class="meta">{values}query <span class="id">{_escape(example.query_id)}</span></div>'
        f"<h4>Relevant documents</h4>{relevant or none}"
        f'<div class="sides">{sides}</div></div></details>'
    )


def _ranking(ranking: Ranking) -> str:
    docs = _list("ol", (_doc(f"{i}", rank, f"score {rank.score}") for i, rank in enumerate(ranking.ranks, 1)))
    return f"<div><h4>Top of {_escape(ranking.system)}</h4>{docs or '<p class=note>It found nothing.</p>'}</div>"


def _list(tag: str, items: Iterable[str]) -> str:
    inner = "".join(items)
    return f"<{tag}>{inner}</{tag}>" if inner else ""


def _doc(place: str, rank: Rank, detail: str) -> str:
    """One document; a relevant one is told by words and place, not by colour alone."""
    number = f'<span class="rank">{place}</span>' if place else ""
    if rank.relevant:
        grade = f'<span class="grade">relevant, grade {_escape(rank.grade)}</span> · '
    else:
        grade = f"grade {_escape(rank.grade)} · " if rank.grade else ""
    meta = f'{grade}<span class="id">{_escape(rank.doc_id)}</span> · {_escape(detail)}'
    text = f'<span dir="auto">{_escape(rank.text)}</span><br><span class="meta">{meta}</span>'
    return f'<li class="doc{" hit" if rank.relevant else ""}">{number}<span>{text}</span></li>'
