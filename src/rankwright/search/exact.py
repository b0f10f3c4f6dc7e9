"""Exact nearest neighbours by inner product: streaming float32 blocks, decided in float64, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from ..errors import UsageError
from ..progress import Progress
from ..types import Tensor
from .index import Hits, Index
from .shortlist import as_tensor, nearest, rounding_error
from .vectors import Vectors, check_queries, inner_products

_QUERY_ROWS = 1024
_SCORES_AT_ONCE, _LEAST_ROWS, _MOST_ROWS = 1 << 20, 1024, 16384  # 4 MB of scores are still in the cache when compared


class Exact(Index[np.ndarray]):
    """Every query against every vector: float32 products find the candidates, float64 products rank them.

    A document is dropped only when float32's worst rounding error cannot bring it back, so the result is that of a
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

        rows = self.block_rows or min(max(_SCORES_AT_ONCE // len(queries), _LEAST_ROWS), _MOST_ROWS)
        on_device = torch.from_numpy(np.ascontiguousarray(queries)).to(self.device)

        def scorer() -> Callable[[np.ndarray], Tensor]:
            space = torch.empty(len(queries) * rows, device=self.device)

            def score(block: np.ndarray) -> Tensor:
                scores = space[: len(queries) * len(block)].view(len(queries), len(block))
                return torch.mm(on_device, as_tensor(block).to(self.device).float().T, out=scores)

            return score

        return nearest(
            self.vectors.blocks(rows), scorer, lambda q, d: self.scores(queries, query_rows=q, doc_rows=d),
            ids=self.ids, k=k, error=self._rounding_error(queries), rows=rows, device=self.device, bar=bar,
        )  # fmt: skip

    def _rounding_error(self, queries: np.ndarray) -> Float[np.ndarray, " q"]:
        """How far a float32 score may be from the exact one, per query."""
        relative, underflow = rounding_error(self.vectors.dim, self.device)
        return relative * np.linalg.norm(queries.astype(np.float64), axis=1) * self.vectors.max_norm + underflow
