"""Exact MaxSim over token vectors: every query against every document, and the scores of given pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from .. import signals
from ..errors import NonFiniteError, UsageError
from ..progress import Progress
from ..types import Tensor
from .exact import Exact
from .index import Hits, Index
from .products import UNIT, Rounding, as_tensor, summing_error
from .shortlist import nearest
from .token_vectors import TokenVectors
from .vectors import Vectors

_QUERY_TOKENS = 1024
_PRODUCTS_AT_ONCE, _LEAST_TOKENS = 1 << 20, 512  # 4 MB of token products are still in the cache when compared
_QUERIES_AT_ONCE = 64  # in float64, against one document


class LateIndex(Index[np.ndarray]):
    """For each query token its best document token's inner product, summed (MaxSim, arXiv:2004.12832).

    Queries are float32 [q, t, dim]; a token of zeros adds nothing, so shorter queries are filled up with them
    (`TokenVectors.padded`). float32 finds the candidates and float64 ranks them, as in `Exact`: the result is that of
    a float64 brute force over the stored vectors.
    """

    def __init__(self, vectors: TokenVectors, device: str = "cpu", *, block_tokens: int | None = None) -> None:
        """`block_tokens`: of documents compared at once; by default about a million products' worth."""
        if block_tokens is not None and block_tokens < 1:
            raise UsageError(f"block_tokens must be at least 1, got {block_tokens}")
        self.vectors, self.device, self.block_tokens = vectors, device, block_tokens
        self.ids = vectors.ids

    @property
    def fingerprint(self) -> str:
        return f"maxsim {self.vectors.fingerprint}"

    def check(self, queries: Float[np.ndarray, "q t dim"], query_ids: Sequence[str]) -> None:
        if queries.ndim != 3 or queries.dtype != np.float32 or queries.shape[2] != self.vectors.dim:
            raise UsageError(
                f"query vectors are {queries.dtype} {list(queries.shape)}, the index holds tokens of "
                f"{self.vectors.dim} dimensions",
                fix="encode queries with the model of the documents, as float32 [queries, tokens, dim]",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            largest = _norms(queries) * self.vectors.max_norm
        if len(bad := np.flatnonzero(~(largest < 1e37))):  # not finite, or float32 scores would overflow
            raise NonFiniteError(
                f"a token vector of query {query_ids[int(bad[0])]!r} (row {int(bad[0])}) is not finite or too large",
                fix="look at that text (empty?) and at the model",
            )

    def hits(self, queries: Float[np.ndarray, "q t dim"], *, k: int, bar: Progress) -> Hits:
        rows = max(1, _QUERY_TOKENS // max(1, queries.shape[1]))
        starts = range(0, len(queries), rows)
        return Hits.concatenate([self._hits(queries[a : a + rows], min(k, len(self.ids)), bar) for a in starts])

    def scores(
        self, queries: Float[np.ndarray, "q t dim"], *, query_rows: np.ndarray, doc_rows: np.ndarray
    ) -> Float[np.ndarray, " pairs"]:
        """In float64, each pair by a product of its own: its bits do not depend on what else is scored."""
        made, order = np.empty(len(doc_rows), np.float64), np.argsort(doc_rows, kind="stable")
        edges = np.flatnonzero(np.diff(doc_rows[order], prepend=-1, append=-1)) if len(order) else order
        for begin, end in pairwise(edges):  # the pairs of one document
            signals.check()
            doc = self.vectors.take(int(doc_rows[order[begin]])).astype(np.float64)
            for first in range(begin, end, _QUERIES_AT_ONCE):
                pairs = order[first : min(first + _QUERIES_AT_ONCE, end)]
                products = np.matmul(queries[query_rows[pairs]].astype(np.float64), doc.T)
                made[pairs] = _best(products, self.vectors.best_of).sum(axis=1)
        return made

    def _hits(self, queries: Float[np.ndarray, "q t dim"], k: int, bar: Progress) -> Hits:
        import torch

        count, width, dim = queries.shape
        flat = torch.from_numpy(queries.reshape(count * width, dim)).to(self.device)
        tokens = self.block_tokens or max(_LEAST_TOKENS, _PRODUCTS_AT_ONCE // len(flat))

        rounding = Rounding(self._rounding_error(queries), 0.0)

        def scorer() -> Callable[[tuple[np.ndarray, np.ndarray]], tuple[Tensor, Rounding]]:
            longest = int(self.vectors.lengths.max(initial=1))
            space = torch.empty(len(flat) * max(tokens, longest), device=self.device)

            def score(block: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Rounding]:
                values, lengths = block
                products = space[: len(flat) * len(values)].view(len(flat), len(values))
                torch.mm(flat, as_tensor(values).to(self.device).float().T, out=products)
                return _best_tokens(products, lengths, self.vectors.best_of).view(count, width, len(lengths)).sum(
                    1
                ), rounding

            return score

        return nearest(
            self.vectors.blocks(tokens), scorer, lambda q, d: self.scores(queries, query_rows=q, doc_rows=d),
            ids=self.ids, queries=count, k=k, device=self.device, bar=bar,
            crowd=2 * count * k + tokens, crowded=lambda: None,
        )  # fmt: skip

    def _rounding_error(self, queries: np.ndarray) -> Float[np.ndarray, " q"]:
        """How far a float32 score may be from the exact one, per query: of every product, and of their sum."""
        width, norms = queries.shape[1], _norms(queries)
        products = summing_error(norms, self.vectors.max_norm, dim=self.vectors.dim, device=self.device)
        tiny = (width - 1) * self.vectors.dim * float(np.finfo(np.float32).tiny)  # every token's product underflows
        width += self.vectors.best_of - 1  # a mean of several is a sum too
        return products + 1.01 * width * UNIT * (norms * self.vectors.max_norm + products) + tiny


def exact_index(vectors: Vectors | TokenVectors, device: str = "cpu") -> Exact | LateIndex:
    """What searches these vectors exactly."""
    return LateIndex(vectors, device) if isinstance(vectors, TokenVectors) else Exact(vectors, device)


def _norms(queries: Float[np.ndarray, "q t dim"]) -> Float[np.ndarray, " q"]:
    """Sum of the norms of each query's tokens."""
    return np.linalg.norm(queries.astype(np.float64), axis=2).sum(axis=1)


def _best(products: Float[np.ndarray, "q t tokens"], count: int) -> Float[np.ndarray, "q t"]:
    """The mean of the `count` largest products of each query token."""
    if count == 1:
        return products.max(axis=2)
    return np.sort(products, axis=2)[:, :, -count:].mean(axis=2)


def _best_tokens(products: Tensor, lengths: Int[np.ndarray, " rows"], count: int) -> Tensor:
    """Each document's largest product, or the mean of its `count` largest [query tokens, rows].

    On a CPU NumPy finds the largest 3x faster than torch.
    """
    import torch

    if count > 1:
        there = torch.arange(int(lengths.max()))[None] < torch.from_numpy(lengths)[:, None]
        wide = products.new_full((len(products), *there.shape), -torch.inf)
        wide[:, there.to(products.device)] = products
        top = wide.topk(min(count, wide.shape[2]), dim=2).values
        found = top > -torch.inf
        return top.masked_fill(~found, 0).sum(2) / found.sum(2)
    if products.device.type == "cpu":
        return torch.from_numpy(np.maximum.reduceat(products.numpy(), np.cumsum(lengths) - lengths, axis=1))
    sizes = torch.from_numpy(lengths).to(products.device)
    return torch.segment_reduce(products.T.contiguous(), "max", lengths=sizes, axis=0).T
