"""How an exact search proceeds: float32 scores of a block at a time find the candidates, float64 ranks them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from .. import signals
from ..progress import Progress
from ..types import Tensor
from .index import DocIds, Hits, places, ranked

_INPUT_ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}  # what torch may do to float32 factors when told so

Block = TypeVar("Block")


def nearest(
    blocks: Iterator[tuple[int, Block]],
    scorer: Callable[[], Callable[[Block], Tensor]],
    exact: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    ids: DocIds,
    k: int,
    error: Float[np.ndarray, " q"],
    rows: int,
    device: str,
    bar: Progress,
) -> Hits:
    """The k best documents of each query by `exact` score, ties by document id descending.

    A document is dropped only when the worst error of its float32 score cannot bring it back.

    Args:
        blocks: (first row, block) of all documents.
        scorer: called once per thread: a function from a block to its float32 scores [q, documents].
        exact: float64 scores of (query rows, document rows).
        error: how far a float32 score of each query may be off.
        rows: documents in a block, about.
    """
    shortlist, turn = _Shortlist(len(error), k, error), Lock()
    crowd = 2 * len(error) * k + rows

    def decide() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        query, row, _ = shortlist.columns()
        return ranked(query, row, exact(query, row), ids=ids, queries=len(error), k=k)

    def scan() -> None:
        score = scorer()
        while True:
            signals.check()
            with turn:
                start, block = next(blocks, (0, None))
            if block is None:
                return
            scores = score(block)
            kth = None if shortlist.full or scores.shape[1] < k else _kth(scores, k)
            with turn:
                if kth is not None:
                    shortlist.raise_floor(kth)
                floor = shortlist.floor
            query, column, value = _survivors(scores, floor)
            with turn:
                shortlist.add(query, column + start, value)
                if len(shortlist) > crowd:
                    shortlist.tighten()
                    if len(shortlist) > 0.75 * crowd:  # so many near-ties: let float64 decide now
                        shortlist.replace(*decide())
                bar.advance(scores.numel())

    _on_every_core(scan, device)
    shortlist.tighten()
    query, row, score = decide()
    return Hits(np.bincount(query, minlength=len(error)), row, score)


def rounding_error(dim: int, device: str) -> tuple[float, float]:
    """How far a float32 inner product may be from the exact one (Higham 2002, section 3.1).

    Returns: relative to the product of the norms, and in absolute terms (underflow).
    """
    import torch

    on_gpu, backends = device.startswith("cuda"), torch.backends
    rounding = backends.cuda.matmul if on_gpu else backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    factors = _INPUT_ROUNDING.get(str(rounding.fp32_precision), 0.0)
    relative = 1.01 * (dim * 2.0**-24 / (1 - dim * 2.0**-24) + 2 * factors + factors**2)
    return relative, dim * float(np.finfo(np.float32).tiny)


class _Shortlist:
    """The documents that may still be among the k best of a query, with scores known to within `error`."""

    def __init__(self, queries: int, k: int, error: Float[np.ndarray, " q"]) -> None:
        self._queries, self._k, self._error = queries, k, error
        self.floor = np.full(queries, -np.inf, np.float32)  # a document that scores below this is out
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def full(self) -> bool:
        """Whether every query has a floor: k documents that are surely no worse."""
        return bool(np.isfinite(self.floor).all())

    def raise_floor(self, kth: Float[np.ndarray, " q"]) -> None:
        """`kth`: each query's k-th best score so far. A better document may look worse by twice the error."""
        floor = np.nextafter((kth.astype(np.float64) - 2 * self._error).astype(np.float32), np.float32(-np.inf))
        self.floor = np.maximum(self.floor, floor)

    def add(self, query: np.ndarray, row: np.ndarray, score: np.ndarray) -> None:
        self._parts.append((query, row, score))
        self._size += len(query)

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
        """Raise the floor to what has been seen and drop what falls below it."""
        query, row, score = self.columns()
        place, width = places(query, self._queries), 4 * self._k  # the k-th best of some is no better than that of all
        seen = np.flatnonzero(place < width)
        scores = np.full((self._queries, width), -np.inf, np.float32)
        scores[query[seen], place[seen]] = score[seen]
        self.raise_floor(np.partition(scores, width - self._k, axis=1)[:, width - self._k])
        kept = np.flatnonzero(score >= self.floor[query])
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


def as_tensor(block: np.ndarray) -> Tensor:
    """A view of a read-only mapped block; torch's warning about writing to it does not apply."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(block)
