"""Teachers: what scores pairs of texts so that a student may learn the scores; live, stored, or the mean of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64

from ..errors import NonFiniteError
from ..names import picked
from ..types import Qrels, Reps, Run, Side, Texts
from .scores import ScoreStore, pair_keys, text_keys

if TYPE_CHECKING:
    from ..models import Ranker
else:
    Ranker = Any  # a teacher is told apart before torch is needed

_TOKENS = 4096  # of one micro-batch
_PAIRS = 4096  # that a cross-encoder reads, sorted by length together
_SCORES = 4 << 20  # pairs compared at a time
_KEPT = 1 << 16  # pairs written at a time


class Teacher(ABC):
    """Scores queries against documents, both known by their ids; higher is better, the scale is its own."""

    @abstractmethod
    def score(
        self, queries: Sequence[str], docs: Sequence[str], *, wanted: Bool[np.ndarray, "q m"] | None = None
    ) -> Float64[np.ndarray, "q m"]:
        """Scores of all pairs, or at least of the wanted ones; NaN where there is none."""


class Live(Teacher):
    """A ranker applied to the pairs it has not scored before.

    Args:
        texts: (side, ids) -> their token ids as the ranker wants them.
        store: what it said earlier.
    """

    def __init__(self, ranker: Ranker, texts: Callable[[Side, Sequence[str]], Texts], store: ScoreStore) -> None:
        self._ranker, self._texts, self._store = ranker, texts, store

    def learn(self, pairs: Run | Qrels, score: Callable[[Run], Run]) -> None:
        """Let `score` give, all at once, the scores of these pairs that are not in the store, and keep them.

        Args:
            score: from pairs to the same pairs with their scores, in any order within a query.
        """
        keys = np.empty((len(pairs), 2), np.uint64)
        for i, query in enumerate(pairs.queries):
            span = slice(int(pairs.offsets[i]), int(pairs.offsets[i + 1]))
            docs = picked(pairs.docs, pairs.columns[span])
            asked = text_keys([query], self._texts("query", [query]))
            keys[span] = pair_keys(asked, text_keys(docs, self._texts("doc", docs)))[0]
        missing = np.isnan(self._store.get(keys))
        if not missing.any():
            return
        group = np.repeat(np.arange(len(pairs.queries)), np.diff(pairs.offsets))[missing]
        offsets = np.append(0, np.cumsum(np.bincount(group, minlength=len(pairs.queries))))
        columns = pairs.columns[missing]
        made = score(Run(pairs.queries, pairs.docs, offsets, columns, np.zeros(len(columns))))
        assert np.array_equal(made.offsets, offsets), "every pair is scored"
        order, back = np.lexsort((columns, group)), np.lexsort((made.columns, group))
        new_keys, new_values = keys[missing][order], made.values[back]
        for begin in range(0, len(order), _KEPT):
            self._store.add(new_keys[begin : begin + _KEPT], new_values[begin : begin + _KEPT])

    def score(
        self, queries: Sequence[str], docs: Sequence[str], *, wanted: Bool[np.ndarray, "q m"] | None = None
    ) -> Float64[np.ndarray, "q m"]:
        asked, known = self._texts("query", queries), self._texts("doc", docs)
        keys = pair_keys(text_keys(queries, asked), text_keys(docs, known))
        values = self._store.get(keys.reshape(-1, 2)).reshape(len(queries), len(docs))
        missing = np.isnan(values) if wanted is None else np.isnan(values) & wanted
        if missing.any():
            if self._ranker.pairing is not None:
                rows, columns = missing.nonzero()
                values[missing] = self._of_pairs(self._ranker.pairing, _taken(asked, rows), _taken(known, columns))
            else:
                rows, columns = np.flatnonzero(missing.any(1)), np.flatnonzero(missing.any(0))
                made = self._made(_taken(asked, rows), _taken(known, columns))
                values[missing] = made[missing[np.ix_(rows, columns)]]
            if not np.isfinite(values[missing]).all():
                raise NonFiniteError("a teacher's score is NaN or infinite", fix="check the teacher's model folder")
            self._store.add(keys[missing], values[missing])
        return values

    def _made(self, queries: Texts, docs: Texts) -> Float64[np.ndarray, "q m"]:
        """Scores of all these pairs, without dropout."""
        import torch

        with torch.no_grad():
            asked, known = self._represented(queries, "query"), self._represented(docs, "doc")
            rows = max(1, _SCORES // max(1, len(docs)))
            parts = [
                self._ranker.compare(Reps(asked.values[i : i + rows], asked.mask[i : i + rows]), known)
                for i in range(0, len(queries), rows)
            ]
            return torch.cat(parts).double().cpu().numpy()

    def _of_pairs(
        self, join: Callable[[Texts, Texts], Texts], queries: Texts, docs: Texts
    ) -> Float64[np.ndarray, " pairs"]:
        """A cross-encoder's scores, a few thousand pairs at a time: longer ones with longer ones."""
        import torch

        scores = np.empty(len(docs))
        with torch.no_grad():
            for begin in range(0, len(docs), _PAIRS):
                rows = np.arange(begin, min(begin + _PAIRS, len(docs)))
                reps = self._represented(join(_taken(queries, rows), _taken(docs, rows)), "doc")
                scores[rows] = reps.values[:, 0, 0].double().cpu().numpy()
        return scores

    def _represented(self, texts: Texts, side: Side) -> Reps:
        from .micro import Assembly, micro_batches

        cuts = micro_batches(texts, side, budget=_TOKENS, packed=self._ranker.packed)
        gathered = Assembly(len(texts))
        for cut in cuts:
            gathered.add(cut, self._ranker.represent(texts.take(cut.rows), side))
        reps = gathered.leaf()
        return Reps(reps.values.detach(), reps.mask)


class Stored(Teacher):
    """Scores read from a file."""

    def __init__(self, scores: Run) -> None:
        self._rows, self._columns = scores.rows(), {doc: i for i, doc in enumerate(scores.docs)}
        self._scores = scores

    def score(
        self, queries: Sequence[str], docs: Sequence[str], *, wanted: Bool[np.ndarray, "q m"] | None = None
    ) -> Float64[np.ndarray, "q m"]:
        values = np.full((len(queries), len(docs)), np.nan)
        places: dict[int, list[int]] = {}
        for place, doc in enumerate(docs):
            if doc in self._columns:
                places.setdefault(self._columns[doc], []).append(place)
        for row, query in enumerate(queries):
            at = self._rows.get(query)
            if at is not None:
                span = slice(self._scores.offsets[at], self._scores.offsets[at + 1])
                for column, value in zip(self._scores.columns[span].tolist(), self._scores.values[span].tolist()):
                    values[row, places.get(column, [])] = value
        return values


class Mean(Teacher):
    """The mean of several teachers; a pair that one of them has no score for has none."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self._teachers = tuple(teachers)

    def score(
        self, queries: Sequence[str], docs: Sequence[str], *, wanted: Bool[np.ndarray, "q m"] | None = None
    ) -> Float64[np.ndarray, "q m"]:
        return np.mean([teacher.score(queries, docs, wanted=wanted) for teacher in self._teachers], axis=0)


def _taken(texts: Texts, rows: np.ndarray) -> Texts:
    import torch

    return texts.take(torch.from_numpy(rows))
