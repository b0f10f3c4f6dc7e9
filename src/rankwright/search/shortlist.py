"""How an exact search proceeds: fast scores of a block at a time find the candidates, float64 ranks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from .. import signals
from ..progress import Progress
from ..types import Tensor
from .index import DocIds, Hits, places, ranked
from .products import Rounding

Block = TypeVar("Block")
_Ranked = tuple[np.ndarray, np.ndarray, np.ndarray]  # query, row, score

_QUERIES_AT_ONCE = 32  # of which float64 decides on one thread


def nearest(
    blocks: Iterator[tuple[int, Block]],
    scorer: Callable[[], Callable[[Block], tuple[Tensor, Rounding]]],
    exact: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    ids: DocIds,
    queries: int,
    k: int,
    crowd: int,
    crowded: Callable[[], None],
    device: str,
    bar: Progress,
) -> Hits:
    """The k best documents of each query by `exact` score, ties by document id descending.

    A document is dropped only when the rounding of its fast score cannot bring it back.

    Args:
        blocks: (first row, block) of all documents.
        scorer: called once per thread: a function from a block to its scores [queries, documents] and their rounding.
        exact: float64 scores of (query rows, document rows).
        crowd: how many candidates are kept before some have to go.
        crowded: told when the fast scores leave too many near-ties to tell apart.
    """
    shortlist, turn = _Shortlist(queries, k), Lock()

    def decide(share: Callable[..., Iterable[_Ranked]]) -> _Ranked:
        return _decided(shortlist, exact, share, ids=ids, queries=queries, k=k)

    def scan(_: int) -> None:
        score = scorer()
        while True:
            signals.check()
            with turn:
                start, block = next(blocks, (0, None))
            if block is None:
                return
            scores, rounding = score(block)
            kth = None if shortlist.full or scores.shape[1] < k else _kth(scores, k)
            with turn:
                if kth is not None:
                    shortlist.raise_bound(rounding.below(kth))
                floor = rounding.hopeless(shortlist.bound)
            query, column, value = _survivors(scores, floor)
            with turn:
                shortlist.add(query, column + start, value, rounding)
                if len(shortlist) > crowd:
                    shortlist.tighten()
                    if len(shortlist) > 0.75 * crowd:  # so many near-ties: let float64 decide now
                        crowded()
                        shortlist.replace(*decide(map))
                bar.advance(scores.numel())

    with _cores(device) as (count, share):
        list(share(scan, range(count)))
        shortlist.tighten()
        query, row, score = decide(share)
    return Hits(np.bincount(query, minlength=queries), row, score)


def _decided(
    shortlist: _Shortlist,
    exact: Callable[[np.ndarray, np.ndarray], np.ndarray],
    share: Callable[..., Iterable[_Ranked]],
    *,
    ids: DocIds,
    queries: int,
    k: int,
) -> _Ranked:
    """The k best of the shortlist by `exact` score; `share` maps a function over slices of the queries."""
    query, row, _ = shortlist.columns()
    cuts = np.searchsorted(query, range(0, queries + _QUERIES_AT_ONCE, _QUERIES_AT_ONCE)).tolist()

    def part(start: int, stop: int) -> _Ranked:
        signals.check()
        some, rows = query[start:stop], row[start:stop]
        return ranked(some, rows, exact(some, rows), ids=ids, queries=queries, k=k)

    best = (np.concatenate(column) for column in zip(*share(part, cuts, cuts[1:])))
    return next(best), next(best), next(best)


class _Shortlist:
    """The documents that may still be among the k best of a query, with scores known to within `rounding`."""

    def __init__(self, queries: int, k: int) -> None:
        self._queries, self._k = queries, k
        self.bound = np.full(queries, -np.inf)  # k documents are surely no worse: what is truly below this is out
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._size = 0
        self._rounding = Rounding(np.zeros(queries), 0.0)

    def __len__(self) -> int:
        return self._size

    @property
    def full(self) -> bool:
        """Whether every query has a bound."""
        return bool(np.isfinite(self.bound).all())

    def raise_bound(self, least: Float[np.ndarray, " q"]) -> None:
        """`least`: what the k-th best so far is sure to score."""
        self.bound = np.maximum(self.bound, least)

    def add(self, query: np.ndarray, row: np.ndarray, score: np.ndarray, rounding: Rounding) -> None:
        self._parts.append((query, row, score))
        self._size += len(query)
        self._rounding = self._rounding.or_worse(rounding)

    def replace(self, query: np.ndarray, row: np.ndarray, score: np.ndarray) -> None:
        self._parts, self._size = [(query, row, score)], len(query)

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, row, score) of all, grouped by query."""
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)
        query, row, score = (np.concatenate(column) for column in zip(*self._parts))
        order = np.argsort(query.astype(np.int16), kind="stable")  # 16 bits: a radix sort
        return query[order], row[order], score[order]

    def tighten(self) -> None:
        """Raise the bound to what has been seen and drop what falls below it."""
        query, row, score = self.columns()
        place, width = places(query, self._queries), 4 * self._k  # the k-th best of some is no better than that of all
        seen = np.flatnonzero(place < width)
        scores = np.full((self._queries, width), -np.inf, np.float32)
        scores[query[seen], place[seen]] = score[seen]
        kth = np.partition(scores, width - self._k, axis=1)[:, width - self._k]
        with np.errstate(invalid="ignore"):  # fewer than k seen: no bound
            self.raise_bound(np.where(np.isneginf(kth), -np.inf, self._rounding.below(kth)))
        kept = np.flatnonzero(score >= self._rounding.hopeless(self.bound)[query])
        self.replace(query[kept], row[kept], score[kept])


def _kth(scores: Tensor, k: int) -> Float[np.ndarray, " q"]:
    """Each query's k-th best score of a block."""
    if scores.device.type == "cpu":
        return np.partition(scores.numpy(), scores.shape[1] - k, axis=1)[:, scores.shape[1] - k]
    return scores.topk(k).values[:, -1].cpu().numpy()


def _survivors(scores: Tensor, floor: Float[np.ndarray, " q"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(query, column, score) of what reaches its query's floor. On a CPU NumPy finds them 10x faster than torch."""
    import torch

    if scores.device.type != "cpu":
        query, column = (scores >= torch.from_numpy(floor).to(scores.device).unsqueeze(1)).nonzero(as_tuple=True)
        return query.cpu().numpy(), column.cpu().numpy(), scores[query, column].cpu().numpy()
    values = scores.numpy()
    found = np.flatnonzero(values >= floor[:, None])
    query, column = np.divmod(found, values.shape[1])
    return query, column, values.ravel()[found]


@contextmanager
def _cores(device: str) -> Iterator[tuple[int, Callable[..., Iterable[Any]]]]:
    """(torch's threads, `map` on as many) with one intra-op thread each: no barrier within a product."""
    import torch

    threads = torch.get_num_threads() if device == "cpu" else 1
    if threads == 1:
        yield 1, map
        return
    try:
        with ThreadPoolExecutor(threads, "exact", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield threads, pool.map
    finally:
        torch.set_num_threads(threads)
