"""The 2-Wasserstein loss of SyCL: two Gaussians over the batch's documents, one of predictions and one of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor
from ._check import positive
from .loss import Loss

_EPSILON = 1e-15  # SyCL's, added to squared singular values; also ends the gradient of those that are 0


@dataclass(frozen=True)
class Wasserstein2(Loss):
    """``|mean P - mean Q|^2 + Tr cov P + Tr cov Q - 2 Tr (cov P cov Q)^(1/2)``, as in SyCL's code, arXiv:2503.23239.

    P = softmax(s / T), Q = softmax(y / T_y), over all documents of the batch (choose ``against: batch``: documents of
    other queries have target 0). The queries are the samples, the documents the features, covariances are divided by
    B - 1. With E the centred rows, the trace of the root is the nuclear norm (the sum of singular values) of the
    B x B matrix ``E_P E_Q^T / (B - 1)``: no documents x documents matrix is made. Computed in float64, like SyCL.

    Permuting P's rows changes nothing: perfect predictions of the *wrong* queries also give 0. `pairing` mends that:
    it replaces the nuclear norm, the best assignment of predictions to targets, by the trace, each query's own. With
    1 the loss is ``|mean P - mean Q|^2 + |E_P - E_Q|^2 / (B - 1)``, an upper bound that is 0 only for P = Q.

    Args:
        temperature: T divides the scores.
        target_temperature: T_y divides the targets. With 1, as in SyCL, targets grow flatter with the batch: of 64
            queries with grades 0 to 3 a query's own documents hold 0.11 of the mass; 0.3 makes that nearly 1.
        pairing: from 0 (SyCL) to 1: the share of each query's own assignment.
    """

    per_query: ClassVar[bool] = False

    temperature: float = 1.0
    target_temperature: float = 1.0
    pairing: float = 0.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        positive("target_temperature", self.target_temperature)
        if not 0 <= self.pairing <= 1:
            raise RecipeError(f"pairing must be from 0 to 1, got {self.pairing}")

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, ""]:
        import torch

        from ._lists import log_softmax

        use = self.defined(targets, mask)
        if not use.any():
            return (scores[:0] * 0).sum()
        _, ours = log_softmax(scores[use].double(), mask[use], self.temperature)
        _, theirs = log_softmax(targets[use].double(), mask[use], self.target_temperature)
        samples = max(len(ours) - 1, 1)
        ours_centred, theirs_centred = ours - ours.mean(0), theirs - theirs.mean(0)
        cross = ours_centred @ theirs_centred.T / samples
        root = self.pairing * cross.trace()
        if self.pairing < 1:
            singular = torch.linalg.svdvals(cross)
            root = root + (1 - self.pairing) * (singular.square() + _EPSILON).sqrt().sum()
        spread = (ours_centred.square().sum() + theirs_centred.square().sum()) / samples
        return ((ours.mean(0) - theirs.mean(0)).square().sum() + spread - 2 * root).to(scores.dtype)
