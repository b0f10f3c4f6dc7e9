"""Opens any model folder or hub id as the ranker of the kind that it states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .cross import Cross
from .dense import Dense
from .hub import resolve
from .late import Late
from .late_folders import kind_of

if TYPE_CHECKING:
    from .ranker import Ranker


def load(name: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Ranker:
    """The ranker in a model folder (ours, sentence-transformers', PyLate's, Stanford ColBERT's) or of a hub id.

    A plain Hugging Face checkpoint is opened as `Dense`, one with a sequence classification head as `Cross`.

    Raises:
        UsageError, ArtefactError, RemoteError: as `Dense.load`.
    """
    folder = resolve(name)
    spec = {"Cross": Cross, "Dense": Dense, "Late": Late}[kind_of(folder)]
    return spec(backbone=str(folder)).load(device=device, dtype=dtype)
