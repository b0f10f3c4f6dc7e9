"""The verb that fills files and the store of teacher scores: score."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .. import assemble, teaching
from ..console import out
from ..data import Dataset, Mixture, Reading, read_qrels, read_run, write_run
from ..errors import DataError
from ..outputs import new_file

if TYPE_CHECKING:
    from ..types import Qrels, Run


def score(given: Namespace) -> None:
    from ..models import load
    from ..training.teachers import Mean

    path = new_file(given.out)
    dataset = assemble.open_dataset(given.data, reading=Reading(lenient=given.lenient))
    pairs, device = _pairs(given.pairs, dataset), assemble.pick_device(given.device)
    with ExitStack() as held:
        teachers = [
            held.enter_context(teaching.live(load(name, device=device), Mixture.of(dataset))) for name in given.model
        ]
        scores = teaching.score_pairs(teachers[0] if len(teachers) == 1 else Mean(teachers), pairs)
    write_run(path, scores, tag="teacher")
    out(f"scores: {given.out}  ({len(scores.queries):,} queries, {len(scores):,} pairs)")
    out(f"next:   in a recipe: objective: [{{loss: MarginMSE, against: own, teacher: {given.out}}}]")


def _pairs(name: str, dataset: Dataset) -> Run | Qrels:
    """The pairs of a split, of a TREC run (.trec, .run) or of a qrels file."""
    if name in dataset.files:
        pairs = dataset.qrels(name)
    else:
        run = {".trec", ".run"} & set(Path(name).suffixes)
        pairs = (read_run if run else read_qrels)(Path(name), dataset.reading)
    if not len(pairs):
        raise DataError("holds no pair", where=name, fix="name a split, a qrels file or a TREC run (.trec) with pairs")
    return pairs
