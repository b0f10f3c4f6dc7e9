"""What the list-wise losses share: masked softmax, ranks and gains; masked places are set to fixed values first."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def clean(values: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Float[Tensor, "q m"]:
    """0 at masked places, whatever they held (nan, inf), and no gradient to them."""
    return values.masked_fill(~mask, 0.0)


def log_softmax(
    values: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"], temperature: float
) -> tuple[Float[Tensor, "q m"], Float[Tensor, "q m"]]:
    """(log-probabilities, probabilities) over each row's documents; both 0 at masked places."""
    lowest = torch.finfo(values.dtype).min  # not minus infinity: a row without documents would be nan
    logs = (values / temperature).masked_fill(~mask, lowest).log_softmax(-1)
    return logs.masked_fill(~mask, 0.0), logs.exp().masked_fill(~mask, 0.0)


def sort_descending(
    values: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
) -> tuple[Float[Tensor, "q m"], Int[Tensor, "q m"]]:
    """(values, their places) from the highest on, equal ones in list order, masked places last."""
    return values.masked_fill(~mask, float("-inf")).sort(dim=-1, descending=True, stable=True)


def ties(ordered: Float[Tensor, "q m"]) -> tuple[Int[Tensor, "q m"], Int[Tensor, "q m"]]:
    """(first, last) position of the run of equal values that each position of a sorted row belongs to."""
    positions = torch.arange(ordered.shape[-1], device=ordered.device).expand(ordered.shape)
    edge = ordered[:, 1:] != ordered[:, :-1]
    one = torch.ones_like(edge[:, :1]) if edge.shape[-1] else edge.new_ones(len(edge), 1)
    first = positions.where(torch.cat([one, edge], -1), 0).cummax(-1).values
    last = positions.where(torch.cat([edge, one], -1), ordered.shape[-1] - 1).flip(-1).cummin(-1).values.flip(-1)
    return first, last


def average_ranks(values: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]) -> Float[Tensor, "q m"]:
    """Rank of each document by `values`, 1 for the highest; equal values share the mean of their ranks."""
    ordered, places = sort_descending(values, mask)
    first, last = ties(ordered)
    return torch.zeros_like(values).scatter(-1, places, (first + last).to(values.dtype) / 2 + 1)


def positions(
    scores: Float[Tensor, "q m"], targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
) -> Float[Tensor, "q m"]:
    """Position of each document by score, 1 for the highest; among equal scores the lower target stands first.

    So the order of the list never decides, and a ranker that cannot tell two documents apart gets the worse outcome.
    """
    low_first = sort_descending(-targets, mask)[1]
    by_score = sort_descending(scores.detach().gather(-1, low_first), mask.gather(-1, low_first))[1]
    places = low_first.gather(-1, by_score)
    counting = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype).expand(scores.shape)
    return torch.zeros_like(counting).scatter(-1, places, counting)


def gains(
    targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"], kind: Literal["exponential", "linear"]
) -> Float[Tensor, "q m"]:
    """Gain of each document in units that only suit ratios within a row; targets below 0 and masked places gain 0.

    ``exponential``: (2^y - 1) / 2^(highest y of the row), which a target of a thousand does not overflow.
    """
    grades = clean(targets, mask).clamp(min=0)
    if kind == "linear":
        return grades
    return (grades - grades.amax(-1, keepdim=True)).exp2() * -(-grades * math.log(2)).expm1()


def ideal_dcg(gains: Float[Tensor, "q m"], k: int | None = None) -> Float[Tensor, " q"]:
    """Discounted cumulative gain of the best order, over its first `k` documents."""
    best = gains.sort(dim=-1, descending=True).values
    ranks = torch.arange(1, gains.shape[-1] + 1, device=gains.device, dtype=gains.dtype)
    return (best / (1 + ranks).log2())[:, :k].sum(-1)


def plackett_luce(
    scores: Float[Tensor, "q m"],
    targets: Float[Tensor, "q m"],
    mask: Bool[Tensor, "q m"],
    *,
    shared: bool,
    weights: Float[Tensor, "q m"] | None = None,
) -> Float[Tensor, " q"]:
    """-log of the probability of drawing the documents in the order of their targets, without replacement.

    Args:
        shared: equal targets compete with each other (one denominator for all of them: Breslow's form of tied
            events) and share the mean of their weights; otherwise the list's order decides between them.
        weights: of each position of that order.
    """
    ordered, places = sort_descending(targets, mask)
    there = mask.gather(-1, places)
    lowest = torch.finfo(scores.dtype).min
    drawn = clean(scores, mask).gather(-1, places).masked_fill(~there, lowest)
    left = drawn.flip(-1).logcumsumexp(-1).flip(-1)  # all that were still to be drawn
    if shared:
        first, _ = ties(ordered)
        left = left.gather(-1, first)
        if weights is not None:
            totals = torch.zeros_like(weights).scatter_add(-1, first, weights)
            counts = torch.zeros_like(weights).scatter_add(-1, first, torch.ones_like(weights))
            weights = (totals / counts.clamp(min=1)).gather(-1, first)
    lost = (left - drawn).masked_fill(~there, 0.0)
    return (lost if weights is None else lost * weights).sum(-1)
