"""From a `Report` to the page it becomes: sections of tables, plots and example queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..progress import duration
from . import plots
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
    Tone,
    compact,
    interval,
    number,
    p_value,
    shorten,
    signed,
    tone,
    value_text,
)
from .report_data import Curve, PairedResult, QueryExample, RankedDoc, Report, SystemResult
from .report_headline import headline, tiles

EXTREMES = 10  # queries in the table of largest gains and losses
LONG = 40  # lines of a recipe beyond which it is folded
NO_PLOTS = "Plots need matplotlib: pip install 'rankwright[plots]', then make the report again."


def page(report: Report) -> Page:
    """Everything the report shows, in order; parts with nothing in them are left out."""
    differences, depths = _differences(report), _depth(report)
    drawn = [block for block in (*differences, *depths) if isinstance(block, Plot)]  # side by side
    numbers = [block for block in (*differences, *depths) if not isinstance(block, Plot)]
    sections = [
        Section("results", "Results", tuple(results(report))),
        Section("closer", "Per query and by depth", (*drawn, *numbers)),
        Section("queries", "Best and worst queries", tuple(_examples(report))),
        Section("training", "Training", tuple(_training(report))),
        Section("data", "Data check", tuple(_data(report))),
        Section("timings", "Timings", tuple(_timings(report))),
        Section("recipe", "Recipe", tuple(_recipe(report))),
        Section("environment", "Environment", tuple(_pairs(report.environment, "What", "Value"))),
        Section("files", "Files", tuple(_files(report))),
    ]
    sentence, remarks = headline(report)
    if not plots.available() and _has_curves(report):
        remarks.append(NO_PLOTS)
    return Page(
        title=report.title,
        subtitle=report.subtitle,
        headline=sentence,
        remarks=tuple(remarks),
        tiles=tiles(report),
        warnings=tuple(report.warnings),
        sections=tuple(section for section in sections if section.blocks),
    )


def _has_curves(report: Report) -> bool:
    curves = [*report.training, *report.validation]
    return bool(report.comparisons or curves or any(system.recall_by_depth for system in report.systems))


# --- results ---------------------------------------------------------------------------------------------------------


def results(report: Report) -> list[Table]:
    """For each collection its systems by measures, and how they differ."""
    blocks: list[Table] = []
    for group in report.groups():
        blocks.append(_summary(report, group))
        comparisons = [c for c in report.comparisons if report.pair(c)[1] in group]
        if comparisons:
            blocks.append(_comparisons(report, comparisons, len(report.groups()) > 1, group[0].place))
    return blocks


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"{_letter(i // 26 - 1)}{_letter(i % 26)}"


def _summary(report: Report, group: Sequence[SystemResult]) -> Table:
    """Systems by measures; a superscript names the systems that a value beats significantly."""
    letters = {system.name: _letter(i) for i, system in enumerate(group)}
    beats: dict[tuple[str, str], list[str]] = {}
    compared = False
    for comparison in report.comparisons:
        if report.pair(comparison)[1] not in group:
            continue
        compared = True
        if report.significant(comparison):
            better, worse = comparison.system, comparison.baseline
            if comparison.difference < 0:
                better, worse = worse, better
            beats.setdefault((better, comparison.measure), []).append(letters[worse])
    measures = list(dict.fromkeys(measure for system in group for measure in system.means))
    best = {m: number(max((s.means[m] for s in group if not math.isnan(s.means.get(m, math.nan))), default=None))
            for m in measures}  # fmt: skip
    timed = any(system.latency is not None for system in group)
    rows = []
    for system in group:
        row = [Cell(letters[system.name], tone="muted")] if compared else []
        row.append(Cell(system.name, small=system.note))
        for measure in measures:
            value = number(system.means.get(measure))
            bounds = system.intervals.get(measure)
            mark = "".join(sorted(set(beats.get((system.name, measure), []))))
            strong = len(group) > 1 and value == best[measure]
            row.append(Cell(value, mark=mark, small=interval(bounds) if bounds else "", strong=strong))
        if timed:
            row.append(Cell("–" if system.latency is None else f"{1000 * system.latency:,.2f}"))
        rows.append(row)
    queries = max(map(len, group[0].per_query.values()), default=0)
    title = " · ".join(p for p in (group[0].dataset, group[0].split, f"{queries:,} queries" if queries else "") if p)
    note = f"In brackets: {report.level} interval of the mean over queries." if _any_interval(group) else ""
    if compared:
        note += (
            f" A superscript names the systems that the value beats significantly ({report.test}, "
            f"{'Holm-corrected ' if report.corrected else ''}p < {1 - report.confidence:.2g})."
        )
    if timed:
        note += " ms per query: search of all queries together, their encoding included, divided by their number."
    note += f" {report.definitions.get(group[0].place, '')}"
    heads = ("", "System") if compared else ("System",)
    columns = (*heads, *measures, *(("ms per query",) if timed else ()))
    return Table(columns, rows, frozenset(range(len(heads), len(columns))), title, note.strip())


def _any_interval(group: Sequence[SystemResult]) -> bool:
    return any(system.intervals for system in group)


def _comparisons(report: Report, comparisons: Sequence[PairedResult], several: bool, place: str) -> Table:
    rows = []
    for c in comparisons:
        total = max(c.wins + c.ties + c.losses, 1)
        sure = report.significant(c)
        bars: tuple[tuple[float, Tone], ...] = (
            (c.wins / total, "good"),
            (c.ties / total, "muted"),
            (c.losses / total, "bad"),
        )
        rows.append(
            [
                Cell(f"{c.baseline} → {c.system}"),
                Cell(c.measure),
                Cell(signed(c.difference), strong=sure, tone=tone(c.difference) if sure else ""),
                Cell(interval(c.interval, differences=True)),
                *([Cell(p_value(c.p))] if report.corrected else []),
                Cell(p_value(c.p_holm), strong=sure),
                Cell(f"{c.wins:,} / {c.ties:,} / {c.losses:,}", bars=bars),
            ]
        )
    p_columns = ("p", "p (Holm)") if report.corrected else ("p",)
    columns = ("Systems", "Measure", "Difference", f"{report.level} interval", *p_columns, "better / same / worse")
    how = "corrected by Holm's method" if report.corrected else "not corrected for the number of tests"
    note = f"Paired over the same queries: {report.test}, {how}. Bold: significant."
    title = f"Differences on {place}" if several and place else "Differences"
    return Table(columns, rows, frozenset(range(2, len(columns))), title, note)


# --- per query, by depth ---------------------------------------------------------------------------------------------


def _differences(report: Report) -> list[Block]:
    blocks: list[Block] = []
    folds: list[Block] = []
    several = len(report.groups()) > 1
    leads = [lead for group in report.groups() for lead in report.drawn(group)]
    for i, lead in enumerate(leads):
        baseline, system = report.pair(lead)
        before, after = (side.per_query.get(lead.measure, {}) for side in (baseline, system))
        ids = [query for query in before if query in after]
        if not ids:
            continue
        ids.sort(key=lambda query: (before[query] - after[query], query))
        differences = [after[query] - before[query] for query in ids]
        title = f"{lead.measure} per query: {system.name} minus {baseline.name}"
        title += f", {system.place}" if several else ""
        if plots.available():
            svg = plots.differences(f"d{i}", differences, y_label=f"difference in {lead.measure}")
            caption = (
                f"Each bar is a query, from the largest gain to the largest loss: {lead.wins:,} better, {lead.ties:,} "
                f"the same, {lead.losses:,} worse. The dashed line is the mean, {signed(lead.difference)}."
            )
            blocks.append(Plot(svg, title, caption))
        rows = [_query_row(query, before[query], after[query]) for query in ids]
        gains = [row for row, d in zip(rows, differences) if d > 0][:EXTREMES]
        losses = [row for row, d in zip(rows, differences) if d < 0][-EXTREMES:][::-1]
        columns = ("Query", baseline.name, system.name, "Difference")
        tables = [("Largest gains", gains), ("Largest losses", losses)]
        tables = [Table(columns, rows, frozenset({1, 2, 3}), name) for name, rows in tables if rows]
        if tables:
            which = f": {system.name}" if report.every_pair and len(leads) > 1 else ""
            summary = f"Largest gains and losses in numbers{which}{f', {system.place}' if several else ''}"
            folds.append(Fold(summary, tuple(tables), opened=not plots.available()))
    return blocks + folds


def _query_row(query: str, before: float, after: float) -> list[Cell]:
    return [
        Cell(query),
        Cell(number(before)),
        Cell(number(after)),
        Cell(signed(after - before), tone=tone(after - before)),
    ]


def _depth(report: Report) -> list[Block]:
    drawn: list[Block] = []
    folds: list[Block] = []
    several = len(report.groups()) > 1
    lead = report.headline()
    star = report.pair(lead)[1] if lead else None
    for i, group in enumerate(report.groups()):
        systems = [system for system in group if system.recall_by_depth]
        if not systems:
            continue
        systems.sort(key=lambda system: system is not star)  # the leading system takes the first colour
        place = f", {group[0].place}" if several else ""
        depths = sorted({depth for system in systems for depth in system.recall_by_depth})
        if plots.available() and len(depths) > 1:
            lines = [sorted(system.recall_by_depth.items()) for system in systems]
            legend = tuple((system.name, series) for series, system in enumerate(systems))
            caption = "Share of the relevant documents found among the first k; k on a logarithmic scale."
            drawn.append(Plot(plots.recall(f"r{i}", lines), f"Recall at depth k{place}", caption, legend))
        rows = [
            [Cell(f"{depth:,}"), *(Cell(number(system.recall_by_depth.get(depth))) for system in systems)]
            for depth in depths
        ]
        table = Table(("k", *(system.name for system in systems)), rows, frozenset(range(len(systems) + 1)))
        folds.append(Fold(f"Recall by depth in numbers{place}", (table,), opened=not plots.available()))
    return drawn + folds


# --- example queries -------------------------------------------------------------------------------------------------


def _examples(report: Report) -> list[Block]:
    blocks: list[Block] = []
    for title, note, examples in (
        ("What got better", "The queries that gained most, with their top documents before and after.",
         report.examples_best),
        ("What got worse", "The queries that lost most: the place to look for what the model unlearned.",
         report.examples_worst),
    ):  # fmt: skip
        if examples:
            blocks.append(Examples(title, note, tuple(_example(report, example) for example in examples)))
    return blocks


def _example(report: Report, example: QueryExample) -> Example:
    names, values = ("before", "after"), ""
    lead = report.headline()
    if lead is not None:
        sides = report.pair(lead)
        names = (sides[0].name, sides[1].name)
        before, after = (side.per_query.get(lead.measure, {}).get(example.query_id) for side in sides)
        if before is not None and after is not None:
            values = f"{lead.measure} {number(before)} → {number(after)}"
    places = [{doc: f"{i}" for i, (doc, *_) in enumerate(top, 1)} for top in (example.top_before, example.top_after)]
    depths = (len(example.top_before), len(example.top_after))
    relevant = []
    for doc, title, grade in example.relevant:
        moved = [place.get(doc, f"below {depth}") for place, depth in zip(places, depths)]
        relevant.append((Rank(doc, shorten(title), "", f"{grade:g}", True), f"rank {moved[0]} → {moved[1]}"))
    rankings = (_ranking(names[0], example.top_before), _ranking(names[1], example.top_after))
    return Example(
        query_id=example.query_id,
        query=example.query,
        change=signed(example.difference),
        tone=tone(example.difference),
        values=values,
        relevant=tuple(relevant),
        rankings=rankings,
    )


def _ranking(system: str, top: Sequence[RankedDoc]) -> Ranking:
    ranks = tuple(
        Rank(doc, shorten(text), number(score), "" if grade is None else f"{grade:g}", grade is not None and grade > 0)
        for doc, text, score, grade in top
    )
    return Ranking(system, ranks)


# --- training --------------------------------------------------------------------------------------------------------


def _training(report: Report) -> list[Block]:
    kinds = (("training", report.training), ("validation", report.validation))
    named = [(kind, i, curve) for kind, curves in kinds for i, curve in enumerate(curves) if len(curve.steps)]
    drawn: list[Block] = []
    if plots.available():  # the first of each kind side by side, then the second, ...
        for kind, i, curve in sorted(named, key=lambda item: item[1]):
            if len(curve.steps) > 1:
                drawn.append(_curve_plot(f"{kind[0]}{i}", curve, kind))
    rows = []
    for kind, _, curve in named:
        low, high = (compact(value) for value in (min(curve.values), max(curve.values)))
        at = {compact(value): step for step, value in reversed(list(zip(curve.steps, curve.values)))}
        rows.append(
            [Cell(curve.name, small=kind), Cell(f"{len(curve.steps):,}")]
            + [Cell(compact(value)) for value in (curve.values[0], curve.values[-1])]
            + [Cell(value, small=f"{curve.x_label} {compact(at[value])}") for value in (low, high)]
        )
    if not rows:
        return drawn
    table = Table(("Curve", "Points", "First", "Last", "Lowest", "Highest"), rows, frozenset({1, 2, 3, 4, 5}))
    return [*drawn, Fold("Curves in numbers", (table,), opened=not drawn)]


def _curve_plot(name: str, curve: Curve, kind: str) -> Plot:
    svg, remark = plots.curve(name, curve.steps, curve.values, x_label=curve.x_label, points=kind == "validation")
    return Plot(svg, f"{kind.capitalize()}: {curve.name}", remark)


# --- facts -----------------------------------------------------------------------------------------------------------


def _data(report: Report) -> list[Block]:
    if not report.data_checks:
        return []
    rows = [
        [Cell(label), Cell(value_text(value)), Cell(warning, tone="warning" if warning else "")]
        for label, value, warning in report.data_checks
    ]
    warned = sum(1 for check in report.data_checks if check[2])
    summary = "Nothing to worry about." if not warned else f"{warned} of {len(rows)} checks need a look."
    return [Text(summary, "warning" if warned else ""), Table(("Check", "Value", "Remark"), rows, frozenset({1}))]


def _timings(report: Report) -> list[Block]:
    if not report.timings:
        return []
    longest = max((seconds for _, seconds, _ in report.timings), default=0) or 1
    rows = []
    for step, seconds, reused in report.timings:
        bars: tuple[tuple[float, Tone], ...] = ((seconds / longest, "muted" if reused else "good"),)
        time = Cell(duration(seconds), tone="muted" if reused else "", bars=bars)
        rows.append([Cell(step), time, Cell("reused" if reused else "", tone="muted" if reused else "")])
    total = sum(seconds for _, seconds, reused in report.timings if not reused)
    rows.append([Cell("All steps of this run", strong=True), Cell(duration(total), strong=True), Cell("")])
    reused = any(reused for *_, reused in report.timings)
    note = "Reused: done by an earlier run whose inputs were the same; not counted in the sum." if reused else ""
    return [Table(("Step", "Time", ""), rows, frozenset({1}), note=note)]


def _recipe(report: Report) -> list[Block]:
    lines = report.recipe_yaml.count("\n") + 1
    code = Code(report.recipe_yaml, "yaml")
    if lines > LONG:
        return [Fold(f"The resolved recipe, {lines} lines", (code,))]
    return [code] if report.recipe_yaml else []


def _pairs(values: Mapping[str, str], left: str, right: str) -> list[Block]:
    rows = [[Cell(str(key)), Cell(str(value))] for key, value in values.items()]
    return [Table((left, right), rows)] if rows else []


def _files(report: Report) -> list[Block]:
    blocks = _pairs(report.paths, "What", "Where")
    if report.reproduce:
        blocks += [Text("To make all of this again:"), Code(report.reproduce, "sh")]
    return blocks
