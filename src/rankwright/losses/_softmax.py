"""The contrastive softmax with its gradient in closed form: few passes over the scores, one saved copy of them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


class Contrast(torch.autograd.Function):
    """One value a row: the mean over its relevant places of -log of their share (`any`: the share of all of them).

    ``each``: a relevant place competes with the `competing` places; ``all`` and ``any``: it is one of them.
    Autograd through logsumexp and its masks would hold about six matrices of the scores' size; this holds one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Float[Tensor, "q m"],
        competing: Bool[Tensor, "q m"],
        row: Int[Tensor, " relevant"],
        column: Int[Tensor, " relevant"],
        temperature: float,
        positives: str,
    ) -> Float[Tensor, " q"]:
        share = scores.masked_fill(~competing, float("-inf"))
        peak = share.amax(-1, keepdim=True).clamp_(min=torch.finfo(share.dtype).min)  # no place: not minus infinity
        mass = share.sub_(peak).div_(temperature).exp_().sum(-1)  # divided first, large scores would be rounded
        # the logsumexp of the competing places is peak / T + log_mass; a large peak, added, would round log_mass away
        peak, log_mass = peak.squeeze(-1), mass.log()
        relevant = scores[row, column]
        nothing = torch.zeros_like(mass)
        count = nothing.index_add(0, row, torch.ones_like(relevant))
        if positives == "any":
            best = torch.full_like(mass, float("-inf")).scatter_reduce(0, row, relevant, "amax")
            theirs = ((relevant - best[row]) / temperature).exp()
            mass_of_them = nothing.index_add(0, row, theirs)
            values = ((peak - best) / temperature + log_mass - mass_of_them.log()).masked_fill(count == 0, 0.0)
            pull = theirs / mass_of_them[row]
            push = (count > 0).to(mass.dtype)
        else:
            gap = (peak[row] - relevant) / temperature + log_mass[row]
            lost = gap.logaddexp(torch.zeros_like(gap)) if positives == "each" else gap
            values = nothing.index_add(0, row, lost / count[row])
            pull = (torch.sigmoid(gap) if positives == "each" else torch.ones_like(gap)) / count[row]
            push = nothing.index_add(0, row, pull)
        ctx.temperature = temperature
        ctx.save_for_backward(share, push / mass.clamp(min=torch.finfo(mass.dtype).tiny), row, column, pull)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, " q"]) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        share, push, row, column, pull = ctx.saved_tensors
        grad = grad / ctx.temperature
        made = share * (push * grad).unsqueeze(-1)
        made.index_put_((row, column), -pull * grad[row], accumulate=True)
        return made, None, None, None, None, None
