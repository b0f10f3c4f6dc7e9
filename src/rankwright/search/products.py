"""Approximate scores of all queries against a block of documents, and how far rounding may have moved each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..types import Tensor

_INPUT_ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}  # what torch may do to float32 factors when told so
_ROWS_AT_ONCE = 512  # that are rounded: they and their distances stay in the cache
UNIT, _HALF_UNIT = 2.0**-24, 2.0**-8  # relative rounding error of float32 and of bfloat16


@dataclass(frozen=True)
class Rounding:
    """A true score is within ``absolute + relative x |score|`` of the one computed.

    Attributes:
        absolute: float64, per query.
        relative: one number.
    """

    absolute: Float[np.ndarray, " q"]
    relative: float

    def below(self, scores: Float[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
        """The least that the true scores of these can be (float64)."""
        scores = scores.astype(np.float64)
        return scores - self.relative * np.abs(scores) - self.absolute

    def hopeless(self, bound: Float[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
        """float32: what is computed as less than this is truly below `bound`."""
        reach = bound - self.absolute
        reach /= 1 + np.sign(reach) * self.relative
        return np.nextafter(reach.astype(np.float32), np.float32(-np.inf))

    def or_worse(self, other: Rounding) -> Rounding:
        """What holds for the scores of both."""
        return Rounding(np.maximum(self.absolute, other.absolute), max(self.relative, other.relative))


class Space(NamedTuple):
    """Where one thread computes, block after block: fresh memory for each would cost as much as a product."""

    scores: Tensor  # float32 [q x rows]
    docs: Tensor  # bfloat16 [rows dim]; empty where nothing is coarse, as what follows
    found: Tensor  # bfloat16 [q x rows]
    off: Tensor  # float32 [_ROWS_AT_ONCE dim]


class Products:
    """Queries against blocks, in float32, or first in bfloat16 where a CPU multiplies that twice as fast."""

    def __init__(self, queries: Float[np.ndarray, "q dim"], max_norm: float, device: str, *, coarse: bool) -> None:
        """`max_norm`: the largest Euclidean norm of a document."""
        import torch

        self.device, self.coarse, self._max_norm = device, coarse, max_norm
        self._queries = torch.from_numpy(np.ascontiguousarray(queries)).to(device)
        self._dim, self._norms = queries.shape[1], np.linalg.norm(queries.astype(np.float64), axis=1)
        if coarse:
            self._coarse_queries = self._queries.bfloat16()
            off = self._queries.double() - self._coarse_queries.double()
            self._off = off.norm(dim=1).numpy()

    def space(self, rows: int) -> Space:
        """What one thread needs for blocks of up to `rows`."""
        import torch

        size = len(self._queries) * rows
        scores = torch.empty(size, device=self.device)
        if not self.coarse:
            return Space(scores, *[scores[:0]] * 3)
        docs, found = (torch.empty(shape, dtype=torch.bfloat16) for shape in ((rows, self._dim), (size,)))
        return Space(scores, docs, found, torch.empty(_ROWS_AT_ONCE, self._dim))

    def of(self, block: np.ndarray, space: Space) -> tuple[Float[Tensor, "q rows"], Rounding]:
        """Scores, which the next call with the same `space` overwrites, and their rounding."""
        import torch

        docs = as_tensor(block).to(self.device).float()
        size = len(self._queries) * len(docs)
        scores = space.scores[:size].view(len(self._queries), len(docs))
        if not self.coarse:
            torch.mm(self._queries, docs.T, out=scores)
            return scores, Rounding(self._summing(self._norms, self._max_norm), 0.0)
        coarse = space.docs[: len(docs)]
        off = _rounded(docs, coarse, space.off) * (1 + self._dim * 2 * UNIT)
        scores.copy_(torch.mm(self._coarse_queries, coarse.T, out=space.found[:size].view_as(scores)))
        # <q', d'> - <q, d> = <q' - q, d'> + <q, d' - d>, each at most the product of the norms (Cauchy and Schwarz)
        moved = self._off * (self._max_norm + off) + self._norms * off
        summed = self._summing(
            self._norms + self._off, self._max_norm + off, roundings=2
        )  # its pairs of products round twice
        return scores, Rounding(1.001 * moved + summed, _HALF_UNIT * 1.01)

    def refine(self) -> None:
        """From now on in float32: too many documents are closer than bfloat16 can tell."""
        self.coarse = False

    def _summing(self, norms: Float[np.ndarray, " q"], max_norm: float, roundings: int = 1) -> Float[np.ndarray, " q"]:
        return summing_error(norms, max_norm, dim=self._dim, device=self.device, roundings=roundings)


def summing_error(
    norms: Float[np.ndarray, " q"], max_norm: float, *, dim: int, device: str, roundings: int = 1
) -> Float[np.ndarray, " q"]:
    """How far an inner product may be from the exact one (Higham 2002, section 3.1); `roundings` of each term."""
    import torch

    on_gpu, backends = device.startswith("cuda"), torch.backends
    setting = backends.cuda.matmul if on_gpu else backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    factors = _INPUT_ROUNDING.get(str(setting.fp32_precision), 0.0)
    terms = dim * roundings * UNIT
    relative = 1.01 * (terms / (1 - terms) + 2 * factors + factors**2)
    underflow = dim * float(np.finfo(np.float32).tiny) * (1 + (roundings - 1) * (max_norm + norms))
    return relative * norms * max_norm + underflow


def _rounded(docs: Float[Tensor, "rows dim"], coarse: Tensor, off: Tensor) -> float:
    """Round `docs` into `coarse`; the largest distance of a row from what it was."""
    largest = 0.0
    for start in range(0, len(docs), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        gap = off[: len(docs[part])]
        gap.copy_(coarse[part].copy_(docs[part])).sub_(docs[part])
        largest = max(largest, float(gap.norm(dim=1).max()))
    return largest


def as_tensor(block: np.ndarray) -> Tensor:
    """A view of a read-only mapped block; torch's warning about writing to it does not apply."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(block)
