"""The room of the rankers: what training and search may know (`Ranker`), dense, late, cross-encoders, model folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cross import Cross
from .dense import Dense, Lora
from .hub import resolve
from .late import Late
from .loading import load
from .long import Chunks

if TYPE_CHECKING:
    from .cross_ranker import CrossRanker
    from .dense_ranker import DenseRanker
    from .exports import Check, export, verify_export
    from .late_ranker import LateRanker
    from .ranker import Ranker

__all__ = [
    "Check", "Chunks", "Cross", "CrossRanker", "Dense", "DenseRanker", "Late", "LateRanker", "Lora", "Ranker", "export",
    "load", "resolve", "verify_export",
]  # fmt: skip

_NEEDS_TORCH = {
    "CrossRanker": "cross_ranker",
    "DenseRanker": "dense_ranker",
    "LateRanker": "late_ranker",
    "Ranker": "ranker",
    "Check": "exports",
    "export": "exports",
    "verify_export": "exports",
}


def __getattr__(name: str):
    """Import what needs torch when it is first asked for (PEP 562)."""
    from importlib import import_module

    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_NEEDS_TORCH[name]}", __name__), name)
