"""List-wise losses of likelihood: ListNet, and the Plackett-Luce likelihood of the targets' order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float

from ..errors import RecipeError
from ..types import Tensor
from ._check import one_of, positive
from .loss import Loss

_Ties = Literal["shared", "list"]
_LONGEST = 100  # 2^n - 1 weights of a longer list, times its scores and summed, would near float32's 2^128


@dataclass(frozen=True)
class ListNet(Loss):
    """Top-one ListNet: ``-sum_i softmax(y)_i * log(softmax(s / T)_i + epsilon)``, Cao et al. 2007.

    Args:
        temperature: T divides the scores.
        epsilon: inside the logarithm; 0 as in the paper and sentence-transformers, matchmaker has 1e-6 (which ends
            the gradient of documents with a smaller probability).
    """

    temperature: float = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        if not 0 <= self.epsilon < 1:
            raise RecipeError(f"epsilon must be at least 0 and below 1, got {self.epsilon}")

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import log_softmax

        logs, ours = log_softmax(scores, mask, self.temperature)
        _, share = log_softmax(targets, mask, 1.0)
        return -(share * ((ours + self.epsilon).log() if self.epsilon else logs)).sum(-1)


@dataclass(frozen=True)
class ListMLE(Loss):
    """-log of the Plackett-Luce probability of the targets' order, ``sum_k log sum_{l >= k} exp(s_l) - s_k``.

    Xia et al. 2008. A sum over the documents: long lists weigh more.

    Args:
        temperature: T divides the scores.
        ties: between equal targets, where the paper takes any order and implementations a random, an arbitrary or
            the list's: ``shared``: they compete with each other, one denominator for all (Breslow 1974), so that no
            order decides; ``list``: the order of the list decides.
    """

    temperature: float = 1.0
    ties: _Ties = "shared"

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        one_of("ties", self.ties, _Ties)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        from ._lists import plackett_luce

        return plackett_luce(scores / self.temperature, targets, mask, shared=self.ties == "shared")


@dataclass(frozen=True)
class PListMLE(Loss):
    """ListMLE with a weight for each position: ``a_k = 2^(n - k) - 1``, n documents, k from 1; Lan et al. 2014.

    Args:
        temperature: T divides the scores.
        ties: as in `ListMLE`; with ``shared``, equal targets also share the mean of their weights.
        normalise: the weights of a query sum to 1, as in sentence-transformers; False: the paper's own weights, for
            lists of at most 100 documents.

    Raises:
        RecipeError: when called without `normalise` on a longer list.
    """

    temperature: float = 1.0
    ties: _Ties = "shared"
    normalise: bool = True

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        one_of("ties", self.ties, _Ties)

    def __call__(
        self, scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
    ) -> Float[Tensor, " q"]:
        import torch

        from ._lists import plackett_luce

        count = mask.sum(-1, keepdim=True).to(scores.dtype)
        rank = torch.arange(1, mask.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
        weights = ((-rank).exp2() - (-count).exp2()).clamp(min=0)  # in units of 2^n; 0 beyond the last document
        if self.normalise:
            total = weights.sum(-1, keepdim=True)
            weights = weights / total.masked_fill(total == 0, 1.0)
        elif int(count.max()) > _LONGEST:
            what = f"PListMLE's own weights would overflow: a list has {int(count.max())} documents, over {_LONGEST}"
            raise RecipeError(what, fix="PListMLE: {normalise: true}")
        else:
            weights = weights * count.exp2()
        shared = self.ties == "shared"
        return plackett_luce(scores / self.temperature, targets, mask, shared=shared, weights=weights)

    def defined(self, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Bool[Tensor, " q"]:
        return mask.sum(-1) > 1
