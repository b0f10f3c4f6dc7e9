"""The report of an evaluation: `report.html`, complete in itself, and `report.md` with the same numbers."""

from __future__ import annotations

from pathlib import Path

from .. import storage
from . import report_html, report_markdown
from .report_data import (
    Curve,
    DataCheck,
    PairedResult,
    QueryExample,
    RankedDoc,
    RelevantDoc,
    Report,
    SystemResult,
    Timing,
)
from .report_sections import page

__all__ = [
    "Curve",
    "DataCheck",
    "PairedResult",
    "QueryExample",
    "RankedDoc",
    "RelevantDoc",
    "Report",
    "SystemResult",
    "Timing",
    "write_report",
]


def write_report(folder: Path, report: Report) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` into `folder`; the same report gives the same bytes.

    Plots are drawn when matplotlib (extra `plots`) is installed; without it the tables say the same.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    made = page(report)
    html_path, markdown_path = Path(folder) / "report.html", Path(folder) / "report.md"
    storage.write_text(html_path, report_html.render(made))
    storage.write_text(markdown_path, report_markdown.render(made))
    return html_path, markdown_path
