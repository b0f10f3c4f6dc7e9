"""Exact nearest neighbours by inner product: streaming float32 blocks, decided in float64, on CPU or GPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .. import signals
from ..errors import NonFiniteError, UsageError
from ..progress import Progress
from ..types import Tensor
from .index import Hits, Index
from .vectors import Vectors

_QUERY_ROWS = 1024
_PAIRS_AT_ONCE = 512  # of float64 rows: about 1.5 MB at dim 384, which stays in the cache
_INPUT_ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}  # what torch may do to float32 factors when told so


class Exact(Index[np.ndarray]):
    """Every query against every vector: float32 products find the candidates, float64 products rank them.

    A document is dropped only when float32's worst rounding error cannot bring it back, so the result is that of a
    float64 brute force and does not depend on blocks, shards, threads or device.
    """

    def __init__(self, vectors: Vectors, device: str = "cpu", *, block_rows: int = 4096) -> None:
        if block_rows < 1:
            raise UsageError(f"block_rows must be at least 1, got {block_rows}")
        self.vectors, self.device, self.block_rows = vectors, device, block_rows
        self.ids = vectors.ids

    @property
    def fingerprint(self) -> str:
        return f"exact {self.vectors.fingerprint}"

    def check(self, queries: Float[np.ndarray, "q dim"], query_ids: Sequence[str]) -> None:
        if queries.ndim != 2 or queries.dtype != np.float32 or queries.shape[1] != self.vectors.dim:
            given = f"{queries.dtype} {list(queries.shape)}"
            raise UsageError(
                f"query vectors are {given}, the index holds {self.vectors.dim} dimensions",
                fix="encode queries with the model of the documents, as float32",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            largest = np.linalg.norm(queries.astype(np.float64), axis=1) * self.vectors.max_norm
        bad = np.flatnonzero(~(largest < 1e37))  # not finite, or float32 scores would overflow
        if len(bad):
            raise NonFiniteError(
                f"the vector of query {query_ids[int(bad[0])]!r} (row {int(bad[0])}) is not finite or too large",
                fix="look at that text (empty?) and at the model",
            )

    def hits(self, queries: Float[np.ndarray, "q dim"], *, k: int, bar: Progress) -> Hits:
        starts = range(0, len(queries), _QUERY_ROWS)
        return Hits.concatenate([self._hits(queries[a : a + _QUERY_ROWS], min(k, len(self.ids)), bar) for a in starts])

    def scores(
        self, queries: Float[np.ndarray, "q dim"], *, query_rows: np.ndarray, doc_rows: np.ndarray
    ) -> Float[np.ndarray, " pairs"]:
        """Row by row in float64: a pair's score has the same bits whatever else is scored along with it."""
        exact, made = queries.astype(np.float64), np.empty(len(doc_rows), np.float64)
        for start in range(0, len(doc_rows), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            products = self.vectors.take(doc_rows[part]).astype(np.float64)
            products *= exact[query_rows[part]]
            made[part] = products.sum(axis=1)
        return made

    def _hits(self, queries: Float[np.ndarray, "q dim"], k: int, bar: Progress) -> Hits:
        import torch

        shortlist = _Shortlist(len(queries), k, self._rounding_error(queries))
        on_device = torch.from_numpy(np.ascontiguousarray(queries)).to(self.device)
        crowd = 2 * len(queries) * k + self.block_rows
        with torch.inference_mode():
            for start, block in self.vectors.blocks(self.block_rows):
                signals.check()
                scores = on_device @ _tensor(block).to(self.device).float().T
                if len(block) >= k and not shortlist.full:
                    shortlist.raise_floor(scores.topk(k).values[:, -1].cpu().numpy().astype(np.float64))
                floor = torch.from_numpy(shortlist.floor).to(self.device)
                query, column = (scores >= floor.unsqueeze(1)).nonzero(as_tuple=True)
                values = scores[query, column].cpu().numpy().astype(np.float64)
                shortlist.add(query.cpu().numpy(), column.cpu().numpy() + start, values)
                if len(shortlist) > crowd:
                    shortlist.tighten()
                    if len(shortlist) > 0.75 * crowd:  # so many near-ties: let float64 decide now
                        shortlist.replace(*self._decide(queries, shortlist, k))
                bar.advance(scores.numel())
        query, row, score = self._decide(queries, shortlist, k)
        return Hits(np.bincount(query, minlength=len(queries)), row, score)

    def _decide(self, queries: np.ndarray, shortlist: _Shortlist, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, row, score) of the k best of each query by float64 score, ties by document id descending."""
        query, row, _ = shortlist.columns()
        score = self.scores(queries, query_rows=query, doc_rows=row)
        order = np.lexsort((-self.ids.ranks[row], -score, query))
        kept = order[_place(query[order], len(queries)) < k]
        return query[kept], row[kept], score[kept]

    def _rounding_error(self, queries: np.ndarray) -> Float[np.ndarray, " q"]:
        """How far a float32 score may be from the exact one (Higham 2002, section 3.1), per query."""
        import torch

        on_gpu, backends = self.device.startswith("cuda"), torch.backends
        rounding = backends.cuda.matmul if on_gpu else backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
        factors = _INPUT_ROUNDING.get(str(rounding.fp32_precision), 0.0)
        dim = self.vectors.dim
        relative = 1.01 * (dim * 2.0**-24 / (1 - dim * 2.0**-24) + 2 * factors + factors**2)
        underflow = dim * float(np.finfo(np.float32).tiny)
        return relative * np.linalg.norm(queries.astype(np.float64), axis=1) * self.vectors.max_norm + underflow


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
        floor = np.nextafter((kth - 2 * self._error).astype(np.float32), np.float32(-np.inf))
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
        ranked = score[np.lexsort((-score, query))]
        counts = np.bincount(query, minlength=self._queries)
        enough = np.flatnonzero(counts >= self._k)
        kth = np.full(self._queries, -np.inf)
        kth[enough] = ranked[(np.cumsum(counts) - counts)[enough] + self._k - 1]
        self.raise_floor(kth)
        kept = score >= self.floor[query]
        self.replace(query[kept], row[kept], score[kept])


def _place(group: np.ndarray, groups: int) -> np.ndarray:
    """Position of each element within its group, for grouped ids."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))])
    return np.arange(len(group)) - starts[group]


def _tensor(block: np.ndarray) -> Tensor:
    """A view of a read-only mapped block; torch's warning about writing to it does not apply."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(block)
