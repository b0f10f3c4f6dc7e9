"""Rankwright: train, search and evaluate neural rankers; importing it imports neither torch nor transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import Result, run, train
    from .data import (
        ByDocument,
        Dataset,
        Judged,
        OneRelevant,
        Random,
        Shuffled,
        Top,
        read_qrels,
        read_run,
        write_qrels,
        write_run,
    )
    from .evaluation import evaluate
    from .losses import InfoNCE, Loss
    from .models import Cross, Dense, Late, load
    from .plan import Evaluation, Mining, Recipe, Stage, Term, Train, Validation
    from .search import BM25, Exact, Fuse, LateIndex, Mine, TokenVectors, Vectors, encode, fuse, mine, rerank
    from .types import Candidates, Document, Example, Qrels, Run

_HOMES = {
    "api": ("Result", "run", "train"),
    "data": (
        "ByDocument", "Dataset", "Judged", "OneRelevant", "Random", "Shuffled", "Top",
        "read_qrels", "read_run", "write_qrels", "write_run",
    ),
    "evaluation": ("evaluate",),
    "losses": ("InfoNCE", "Loss"),
    "models": ("Cross", "Dense", "Late", "load"),
    "plan": ("Evaluation", "Mining", "Recipe", "Stage", "Term", "Train", "Validation"),
    "search": (
        "BM25", "Exact", "Fuse", "LateIndex", "Mine", "TokenVectors", "Vectors", "encode", "fuse", "mine", "rerank",
    ),
    "types": ("Candidates", "Document", "Example", "Qrels", "Run"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BM25", "ByDocument", "Candidates", "Cross", "Dataset", "Dense", "Document", "Evaluation", "Exact", "Example",
    "Fuse", "InfoNCE", "Judged", "Late", "LateIndex", "Loss", "Mine", "Mining", "OneRelevant", "Qrels", "Random",
    "Recipe", "Result", "Run", "Shuffled", "Stage", "Term", "TokenVectors", "Top", "Train", "Validation", "Vectors",
    "__version__", "encode", "evaluate", "fuse", "load", "mine", "read_qrels", "read_run", "rerank", "run", "train",
    "write_qrels", "write_run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'rankwright' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
