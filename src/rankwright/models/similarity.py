"""How representations are compared: the dot product of single vectors, MaxSim of token vectors."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..types import Reps
from .windows import best_mean

_CELLS = 1 << 21  # token pairs compared at a time: 8 MB of float32


def dot(queries: Reps, docs: Reps, *, pairs: Int[Tensor, "q n"] | None = None) -> Float[Tensor, "q m"]:
    """All queries against all docs, or query i against the docs ``pairs[i]``; half precision is compared in float32."""
    q, d = (_wide(reps.values[:, 0]) for reps in (queries, docs))
    if pairs is None:
        return q @ d.T
    return torch.einsum("qd,qnd->qn", q, d[pairs])


def maxsim(
    queries: Reps, docs: Reps, *, pairs: Int[Tensor, "q n"] | None = None, cells: int = _CELLS, best: int = 1
) -> Float[Tensor, "q m"]:
    """For each query token its best document token's dot product, summed over the query (ColBERT, arXiv:2004.12832).

    Masked document tokens stand at minus infinity and masked query tokens add nothing; a document without any token
    scores minus infinity. Half precision is compared in float32.

    Args:
        pairs: compare query i with the docs ``pairs[i]`` only.
        cells: token pairs whose products are in memory at a time (at least one query's with one document). What a
            backward pass needs of them is computed again, so training takes no more.
        best: the mean over so many best document tokens in place of the best one alone (chunks of a document).
    """
    tq, td = queries.values.shape[1], docs.values.shape[1]
    if pairs is not None:
        return _in_pairs(queries, docs, pairs, max(1, cells // max(1, tq * td)), best)
    rows = max(1, min(len(queries.values), 2048 // max(1, tq)))  # wide enough for the matrix product
    columns = max(1, cells // max(1, rows * tq * td))
    made = [
        torch.cat([_block(_all, *q, *d, best) for d in _parts(docs, columns)], dim=1) for q in _parts(queries, rows)
    ]  # fmt: skip
    return torch.cat(made)


def _in_pairs(queries: Reps, docs: Reps, pairs: Int[Tensor, "q n"], rows: int, best: int) -> Float[Tensor, "q n"]:
    query = torch.arange(len(pairs), device=pairs.device).repeat_interleave(pairs.shape[1])
    made = [
        _block(_each, queries.values[q], queries.mask[q], docs.values[d], docs.mask[d], best)
        for q, d in zip(query.split(rows), pairs.flatten().split(rows))
    ]
    return torch.cat(made).view(pairs.shape)


def _parts(reps: Reps, rows: int) -> list[tuple[Tensor, Tensor]]:
    # split, not slices: its backward is one concatenation, theirs a full-size tensor of zeros each
    return list(zip(reps.values.split(rows), reps.mask.split(rows)))


def _block(compare, q: Tensor, q_mask: Tensor, d: Tensor, d_mask: Tensor, best: int) -> Tensor:
    """`compare` on one block; with a graph, its products are dropped and computed again in the backward pass."""
    if torch.is_grad_enabled() and (q.requires_grad or d.requires_grad):
        return checkpoint(compare, q, q_mask, d, d_mask, best, use_reentrant=False, preserve_rng_state=False)
    return compare(q, q_mask, d, d_mask, best)


def _all(
    q: Float[Tensor, "q i dim"],
    q_mask: Bool[Tensor, "q i"],
    d: Float[Tensor, "m j dim"],
    d_mask: Bool[Tensor, "m j"],
    best: int,
) -> Float[Tensor, "q m"]:
    products = (_wide(q).flatten(0, 1) @ _wide(d).flatten(0, 1).T).view(*q.shape[:2], *d.shape[:2])
    found = best_mean(products.masked_fill(~d_mask, -torch.inf), best)
    return found.masked_fill(~q_mask[..., None], 0).sum(1)


def _each(
    q: Float[Tensor, "n i dim"],
    q_mask: Bool[Tensor, "n i"],
    d: Float[Tensor, "n j dim"],
    d_mask: Bool[Tensor, "n j"],
    best: int,
) -> Float[Tensor, " n"]:
    products = _wide(q) @ _wide(d).transpose(1, 2)
    found = best_mean(products.masked_fill(~d_mask[:, None], -torch.inf), best)
    return found.masked_fill(~q_mask, 0).sum(1)


def _wide(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
