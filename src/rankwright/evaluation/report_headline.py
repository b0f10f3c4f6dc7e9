"""What came out, in one plain sentence with how far to trust it, and the key figures."""

from __future__ import annotations

import math

from .report_blocks import Tile, Tiles, interval, number, p_words, signed, tone
from .report_data import Report


def headline(report: Report) -> tuple[str, list[str]]:
    """One sentence that says what came out, and remarks that say how far to trust it."""
    measure, lead = report.headline_measure, report.headline()
    if not report.systems:
        return "Nothing was evaluated.", []
    if lead is None:
        last = [system for system in report.systems if measure in system.means][-1]
        bounds = last.intervals.get(measure)
        where = f" on {last.place}" if last.place else ""
        within = f" ({report.level} interval {interval(bounds)})" if bounds else ""
        return f"{last.name} reaches {measure} {number(last.means[measure])}{where}{within}.", []
    baseline, system = report.pair(lead)
    before, after = baseline.means[measure], system.means[measure]
    verb = "rises" if after > before else "falls" if after < before else "stays"
    path = f"{verb} from {number(before)} to {number(after)}" if verb != "stays" else f"stays at {number(after)}"
    where = f" on {system.place}" if system.place else ""
    corrected = ", Holm-corrected" if len(report.comparisons) > 1 and report.corrected else ""
    inner = "; ".join(
        part
        for part in (
            f"{signed(lead.difference)}, {report.level} interval {interval(lead.interval, differences=True)}",
            f"{p_words(lead.p_holm)}{corrected}" if not math.isnan(lead.p_holm) else "",
        )
        if part
    )
    queries = lead.wins + lead.ties + lead.losses
    remarks = [
        f"Of {queries:,} queries, {lead.wins:,} get better, {lead.ties:,} stay the same and {lead.losses:,} get worse."
    ]
    if not report.significant(lead):
        remarks.insert(0, "A difference of this size may well be chance: do not build on it without more queries.")
    return f"{measure} {path}{where} ({inner}).", remarks


def tiles(report: Report) -> Tiles:
    """Every measure of the leading pair of systems."""
    lead = report.headline()
    if lead is None:
        return Tiles(())
    baseline, system = report.pair(lead)
    tiles = []
    for measure, after in system.means.items():
        if measure in baseline.means:
            before = baseline.means[measure]
            change = after - before
            tiles.append(Tile(measure, number(after), signed(change), f"from {number(before)}", tone(change)))
    return Tiles(tuple(tiles))
