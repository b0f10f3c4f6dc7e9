"""How representations are compared: the dot product of single vectors (cosine when they have length 1)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..types import Reps


def dot(queries: Reps, docs: Reps, *, pairs: Int[Tensor, "q n"] | None = None) -> Float[Tensor, "q m"]:
    """All queries against all docs, or query i against the docs ``pairs[i]``; half precision is compared in float32."""
    q, d = (_wide(reps.values[:, 0]) for reps in (queries, docs))
    if pairs is None:
        return q @ d.T
    return torch.einsum("qd,qnd->qn", q, d[pairs])


def _wide(values: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
