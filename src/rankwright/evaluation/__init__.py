"""The room of the measures: what a run is worth, whether a difference is chance, and the report that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .answers import has_answer
from .evidence import Evidence
from .measures import Measure, parse, stated
from .metrics import Scores, evaluate
from .significance import (
    Comparison,
    Difference,
    PairedComparison,
    PairedTest,
    bootstrap_interval,
    compare,
    compare_pairs,
    holm,
    paired_t,
    per_query_differences,
    randomisation,
)

if TYPE_CHECKING:
    from .report import Report, write_report

__all__ = [
    "Comparison",
    "Difference",
    "Evidence",
    "Measure",
    "PairedComparison",
    "PairedTest",
    "Report",
    "Scores",
    "bootstrap_interval",
    "compare",
    "compare_pairs",
    "evaluate",
    "has_answer",
    "holm",
    "paired_t",
    "parse",
    "per_query_differences",
    "randomisation",
    "stated",
    "write_report",
]


def __getattr__(name: str):
    """Import the report's modules when they are first asked for (PEP 562)."""
    if name not in ("Report", "write_report"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import report

    return getattr(report, name)
