"""The verb that fills files and the store of teacher scores: score."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import assemble, storage, teaching
from ..console import out
from ..data import Dataset, Mixture, Reading, read_qrels, read_run, write_run
from ..errors import DataError
from ..outputs import new_file, workplace

if TYPE_CHECKING:
    from ..types import Qrels, Run


def score(given: Namespace) -> None:
    from ..models import load
    from ..training.teachers import Mean

    path = new_file(given.out)
    dataset = assemble.open_dataset(given.data, reading=Reading(lenient=given.lenient))
    pairs, device = _pairs(given.pairs, dataset), assemble.pick_device(given.device)
    work = workplace(given.out, dataset.cache)
    with ExitStack() as held:
        teachers = []
        for number, name in enumerate(given.model):
            ranker = load(name, device=device)
            teachers.append(held.enter_context(teaching.live(ranker, Mixture.of(dataset))))
            everything = int(np.diff(pairs.offsets).max())
            teachers[-1].learn(
                pairs,
                partial(
                    assemble.rerank_run, ranker, dataset, depth=everything, device=device, folder=work / str(number)
                ),
            )
        scores = teaching.score_pairs(teachers[0] if len(teachers) == 1 else Mean(teachers), pairs)
    write_run(path, scores, tag="teacher")
    storage.remove_folder(work)
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
