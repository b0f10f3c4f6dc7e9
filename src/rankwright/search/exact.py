"""Exact nearest neighbours by inner product: streaming blocks, decided in float64, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ..errors import UsageError
from ..progress import Progress
from ..types import Tensor
from .index import Hits, Index
from .products import Products, Rounding
from .shortlist import nearest
from .vectors import Vectors, check_queries, inner_products

_QUERY_ROWS = 1024
_LEAST_DIM = 64  # below, a product is not what takes the time
_SCORES_AT_ONCE, _LEAST_ROWS, _MOST_ROWS = 1 << 20, 1024, 4096  # 4 MB of scores are still in the cache when compared


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
        rows = self.block_rows or min(max(_SCORES_AT_ONCE // len(queries), _LEAST_ROWS), _MOST_ROWS)
        products = Products(queries, self.vectors.max_norm, self.device, coarse=_coarse(self.device, queries))

        def scorer() -> Callable[[np.ndarray], tuple[Tensor, Rounding]]:
            space = products.space(rows)
            return lambda block: products.of(block, space)

        return nearest(
            self.vectors.blocks(rows), scorer, lambda q, d: self.scores(queries, query_rows=q, doc_rows=d),
            ids=self.ids, queries=len(queries), k=k, device=self.device, bar=bar,
            crowd=(3 if products.coarse else 2) * len(queries) * k + rows, crowded=products.refine,
        )  # fmt: skip


def _coarse(device: str, queries: np.ndarray) -> bool:
    """Whether to look first in bfloat16. (On CUDA torch may also sum in bfloat16, which no bound here covers.)"""
    from ..models.precision import native_bf16

    return device == "cpu" and queries.shape[1] >= _LEAST_DIM and native_bf16("cpu")
