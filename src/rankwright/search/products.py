"""Approximate scores of all queries against a block of documents, and how far rounding may have moved each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..types import Tensor

_INPUT_ROUNDING = {"tf32": 2.0**-11, "bf16": 2.0**-8}  # what torch may do to float32 factors when told so
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

    def of(self, block: np.ndarray, space: Tensor) -> tuple[Float[Tensor, "q rows"], Rounding]:
        """Scores in `space` (float32, at least q x rows of it), and their rounding."""
        import torch

        docs = as_tensor(block).to(self.device).float()
        scores = space[: len(self._queries) * len(docs)].view(len(self._queries), len(docs))
        if not self.coarse:
            torch.mm(self._queries, docs.T, out=scores)
            return scores, Rounding(self._summing(self._norms, self._max_norm), 0.0)
        coarse = docs.bfloat16()
        off = float((docs - coarse).norm(dim=1).max()) * (1 + self._dim * 2 * UNIT)
        scores.copy_(torch.mm(self._coarse_queries, coarse.T))
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


def as_tensor(block: np.ndarray) -> Tensor:
    """A view of a read-only mapped block; torch's warning about writing to it does not apply."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(block)
