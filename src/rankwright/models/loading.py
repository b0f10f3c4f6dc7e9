"""Opens any model folder or hub id as the ranker of the kind that it states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .dense import Dense

if TYPE_CHECKING:
    from .ranker import Ranker


def load(name: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Ranker:
    """The ranker in a model folder (ours, sentence-transformers', a plain Hugging Face checkpoint) or of a hub id.

    Raises:
        UsageError, ArtefactError, RemoteError: as `Dense.load`.
    """
    return Dense(backbone=str(name)).load(device=device, dtype=dtype)
