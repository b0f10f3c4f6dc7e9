"""Teachers as recipes and commands name them: opened on a data set, fingerprinted by content, run over pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import assemble, signals
from .data import Mixture, Reading, read_run
from .errors import DataError
from .ledger import fingerprint
from .models.specification import Model
from .names import picked
from .progress import progress
from .training import Term, distributed
from .training.scores import ScoreStore
from .training.teachers import Live, Mean, Stored, Teacher
from .types import Qrels, Run, Side, Texts

if TYPE_CHECKING:
    from .models import Ranker

_QUERIES = 16  # scored together


@contextmanager
def live(ranker: Ranker, mixture: Mixture) -> Iterator[Live]:
    """A ranker as a teacher of some data sets' texts; what it says is kept in the cache, whatever recipe asked."""
    cache = mixture.first.cache
    stores = {
        "query": (mixture.queries, assemble.all_tokens(ranker, mixture.queries, "query", cache=cache)),
        "doc": (mixture.corpus, assemble.all_tokens(ranker, mixture.corpus, "doc", cache=cache)),
    }

    def texts(side: Side, ids: Sequence[str]) -> Texts:
        corpus, store = stores[side]
        return store.take(assemble.rows_of(corpus, ids, "query" if side == "query" else "document"))

    folder = cache / "teachers" / _made_of(ranker)
    with ScoreStore.open(folder, rank=distributed.rank(), world=distributed.world()) as scores:
        yield Live(ranker, texts, scores)


@contextmanager
def teachers(
    terms: Sequence[Term], mixture: Mixture, *, reading: Reading, device: str
) -> Iterator[list[Teacher | None]]:
    """The teacher of each term, None where it has none; one that several terms name is opened once."""
    with ExitStack() as held:
        opened: dict[str, Teacher] = {}
        for spec in (spec for term in terms for spec in term.taught_by):
            if repr(spec) not in opened and isinstance(spec, str):
                opened[repr(spec)] = Stored(_about(mixture, read_run(Path(spec), reading), where=spec))
            elif repr(spec) not in opened and isinstance(spec, Model):
                opened[repr(spec)] = held.enter_context(live(spec.load(device=device), mixture))
        yield [_together([opened[repr(spec)] for spec in term.taught_by]) for term in terms]


def _about(mixture: Mixture, scores: Run, *, where: str) -> Run:
    """Scores of which some are about these data sets.

    Raises:
        DataError: none is.
    """
    for side, ids, there in (("query", scores.queries, mixture.queries), ("document", scores.docs, mixture.corpus)):
        if not (there.rows(ids) >= 0).any():
            fix = "check that it is the teacher's file for this data; ids of a source with a namespace are namespace:id"
            raise DataError(f"scores no {side} of the stage's data sets, e.g. {ids[0]!r} is none", where=where, fix=fix)
    return scores


def _together(named: Sequence[Teacher]) -> Teacher | None:
    return named[0] if len(named) == 1 else Mean(named) if named else None


def identity(terms: Sequence[Term], *, reading: Reading, device: str) -> dict[str, str]:
    """What the terms' teachers are made of, by content; nothing where there are none."""
    named = [_content(spec, reading, device) for term in terms for spec in term.taught_by]
    return {"teachers": fingerprint(named)} if named else {}


def _content(spec: Model | str, reading: Reading, device: str) -> str:
    if isinstance(spec, str):
        return fingerprint(read_run(Path(spec), reading).to_dict())
    return _made_of(spec.load(device=device))


def _made_of(ranker: Ranker) -> str:
    return fingerprint([ranker.fingerprint("query"), ranker.fingerprint("doc")])


def score_pairs(teacher: Teacher, pairs: Run | Qrels) -> Run:
    """A teacher's scores of listed pairs, a few queries at a time; when stopped, a live teacher keeps what it did."""
    values = np.empty(len(pairs))
    with progress("score", len(pairs.queries), "queries") as bar:
        for begin in range(0, len(pairs.queries), _QUERIES):
            signals.check()
            end = min(begin + _QUERIES, len(pairs.queries))
            span = slice(pairs.offsets[begin], pairs.offsets[end])
            columns, places = np.unique(pairs.columns[span], return_inverse=True)
            rows = np.repeat(np.arange(end - begin), np.diff(pairs.offsets[begin : end + 1]))
            wanted = np.zeros((end - begin, len(columns)), bool)
            wanted[rows, places] = True
            docs = picked(pairs.docs, columns)
            values[span] = teacher.score(pairs.queries[begin:end], docs, wanted=wanted)[rows, places]
            bar.advance(end - begin)
    return Run(pairs.queries, pairs.docs, pairs.offsets, pairs.columns, values)
