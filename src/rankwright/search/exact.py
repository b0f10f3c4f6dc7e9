"""Exact nearest neighbours by inner product: streaming blocks, decided in float64, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
from jaxtyping import Float

from .. import signals
from ..errors import UsageError
from ..progress import Progress
from ..types import Tensor
from .index import Hits, Index, places, ranked
from .products import Products, Rounding
from .vectors import Vectors, check_queries, inner_products

_QUERY_ROWS = 1024
_SCORES_AT_ONCE, _LEAST_ROWS, _MOST_ROWS = 1 << 20, 1024, 16384  # 4 MB of scores are still in the cache when compared
_LEAST_DIM = 64  # below, a product is not what takes the time


class Exact(Index[np.ndarray]):
    """Every query against every vector: fast products find the candidates, float64 products rank them.

    A document is dropped only when the worst rounding error cannot bring it back, so the result is that of a
    float64 brute force and does not depend on blocks, shards, threads or device.
    """

    def __init__(self, vectors: Vectors, device: str = "cpu", *, block_rows: int | None = None) -> None:
        """`block_rows`: documents multiplied at once; by default about a million scores' worth."""
        if block_rows is not None and block_rows < 1:
            raise UsageError(f"block_rows must be at least 1, got {block_rows}")
        self.vectors, self.device, self.block_rows = vectors, device, block_rows
        self.ids = vectors.ids

    @property
    def fingerprint(self) -> str:
        return f"exact {self.vectors.fingerprint}"

    def check(self, queries: Float[np.ndarray, "q dim"], query_ids: Sequence[str]) -> None:
        check_queries(queries, query_ids, dim=self.vectors.dim, max_norm=self.vectors.max_norm)

    def hits(self, queries: Float[np.ndarray, "q dim"], *, k: int, bar: Progress) -> Hits:
        starts = range(0, len(queries), _QUERY_ROWS)
        return Hits.concatenate([self._hits(queries[a : a + _QUERY_ROWS], min(k, len(self.ids)), bar) for a in starts])

    def scores(
        self, queries: Float[np.ndarray, "q dim"], *, query_rows: np.ndarray, doc_rows: np.ndarray
    ) -> Float[np.ndarray, " pairs"]:
        return inner_products(self.vectors.take, queries, query_rows=query_rows, doc_rows=doc_rows)

    def _hits(self, queries: Float[np.ndarray, "q dim"], k: int, bar: Progress) -> Hits:
        import torch

        shortlist = _Shortlist(len(queries), k)
        rows = self.block_rows or min(max(_SCORES_AT_ONCE // len(queries), _LEAST_ROWS), _MOST_ROWS)
        products = Products(queries, self.vectors.max_norm, self.device, coarse=_coarse(self.device, queries))
        crowd = (3 if products.coarse else 2) * len(queries) * k + rows
        blocks, turn = self.vectors.blocks(rows), Lock()

        def scan() -> None:
            space = torch.empty(len(queries) * rows, device=self.device)
            while True:
                signals.check()
                with turn:
                    start, block = next(blocks, (0, None))
                if block is None:
                    return
                scores, rounding = products.of(block, space)
                kth = None if shortlist.full or len(block) < k else _kth(scores, k)
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
                            products.coarse = False
                            shortlist.replace(*self._decide(queries, shortlist, k))
                    bar.advance(scores.numel())

        _on_every_core(scan, self.device)
        shortlist.tighten()
        query, row, score = self._decide(queries, shortlist, k)
        return Hits(np.bincount(query, minlength=len(queries)), row, score)

    def _decide(self, queries: np.ndarray, shortlist: _Shortlist, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, row, score) of the k best of each query by float64 score, ties by document id descending."""
        query, row, _ = shortlist.columns()
        score = self.scores(queries, query_rows=query, doc_rows=row)
        return ranked(query, row, score, ids=self.ids, queries=len(queries), k=k)


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


def _coarse(device: str, queries: np.ndarray) -> bool:
    """Whether to look first in bfloat16. (On CUDA torch may also sum in bfloat16, which no bound here covers.)"""
    from ..models.precision import native_bf16

    return device == "cpu" and queries.shape[1] >= _LEAST_DIM and native_bf16("cpu")


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


def _on_every_core(work: Callable[[], None], device: str) -> None:
    """Run `work` once per torch thread, one intra-op thread each: no barrier within a product (1.6x on two cores)."""
    import torch

    threads = torch.get_num_threads() if device == "cpu" else 1
    if threads == 1:
        return work()
    try:
        with ThreadPoolExecutor(threads, "exact", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
    finally:
        torch.set_num_threads(threads)
