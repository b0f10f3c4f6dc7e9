"""Packed texts: many texts as one row of tokens without padding, each attending to itself alone.

Linear layers, norms and activations then never see padding. transformers' attention interface hands `Packing` through
to `attend`, which keeps the texts apart: on CPU one call of torch's fused attention per run of equal lengths, without
any mask; on CUDA a variable-length flash kernel in half precision, otherwise one padded call. A
relative position bias (T5) takes the mask's place; no flash kernel knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

NAME = "rankwright_packed"
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Packing:
    """Where each text of a packed row begins and ends.

    Args:
        seen: how many of each text's first tokens can be attended to; None: all. The others attend all the same.
    """

    offsets: Int[Tensor, " rows1"]
    seen: Int[Tensor, " rows"] | None = None

    @cached_property
    def lengths(self) -> Int[Tensor, " rows"]:
        return self.offsets[1:] - self.offsets[:-1]

    @cached_property
    def sizes(self) -> list[int]:
        """The lengths as plain numbers."""
        return self.lengths.tolist()

    @cached_property
    def longest(self) -> int:
        return max(self.sizes)

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """(texts, tokens a text) of each stretch of neighbours of equal length."""
        return [(len(list(same)), size) for size, same in groupby(self.sizes)]

    @cached_property
    def places(self) -> Int[Tensor, " tokens"]:
        """Each token's place within its text."""
        first = torch.repeat_interleave(self.offsets[:-1], self.lengths)
        return torch.arange(len(first), device=first.device) - first

    @cached_property
    def real(self) -> Bool[Tensor, "rows longest"]:
        """Which places of a padded matrix hold a token."""
        return torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]

    @cached_property
    def visible(self) -> Bool[Tensor, "rows longest"]:
        """Which places of a padded matrix hold a token that can be attended to."""
        if self.seen is None:
            return self.real
        return torch.arange(self.longest, device=self.lengths.device) < self.seen[:, None]

    @cached_property
    def bounds(self) -> Int[Tensor, " rows1"]:
        """The offsets as the flash kernels want them."""
        return self.offsets.to(torch.int32)


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 h t d"],
    key: Float[Tensor, "1 g t d"],
    value: Float[Tensor, "1 g t d"],
    attention_mask: None,
    packing: Packing,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: Float[Tensor, "1 h longest longest"] | None = None,
    **_: Any,  # what transformers hands to every implementation and this one has no use for (dropout is 0 here)
) -> tuple[Float[Tensor, "1 t h d"], None]:
    """Attention within each text, as one of transformers' attention implementations.

    `sliding_window`: places at least so far apart do not see each other. `position_bias`: added to the scores; shorter
    texts take its corner. Never with a window or in a causal model.
    """
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    assert position_bias is None or not (causal or sliding_window), "a bias stands alone"
    bias = None if position_bias is None else position_bias.to(query.dtype)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # [tokens, heads, dim]
    if k.shape[1] != q.shape[1]:  # grouped-query attention
        k, v = (states.repeat_interleave(q.shape[1] // states.shape[1], dim=1) for states in (k, v))
    if sliding_window is not None and sliding_window >= packing.longest:
        sliding_window = None
    if q.device.type != "cuda":
        made = _by_runs(q, k, v, packing, scaling, causal, sliding_window, bias)
    elif (
        q.dtype in _HALF and bias is None and _has_varlen() and (packing.seen is None or not (causal or sliding_window))
    ):
        made = _flash(q, k, v, packing, scaling, causal, sliding_window)
    else:
        made = _padded(q, k, v, packing, scaling, causal, sliding_window, bias)
    return made[None], None


def _flash_fits(q: Tensor, packing: Packing, *, masked: bool, biased: bool) -> bool:
    """Whether the variable-length kernel can do it: half precision, no bias, not both unseen tokens and a mask."""
    return q.dtype in _HALF and not biased and (packing.seen is None or not masked) and _has_varlen()


def _by_runs(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float | None, causal: bool, window: int | None,
    bias: Tensor | None = None,
) -> Float[Tensor, "tokens h d"]:  # fmt: skip
    """One fused call per run of equal lengths: no padding, and a mask only for windows, unseen tokens and biases."""
    tokens, made, row = [rows * size for rows, size in packing.runs], [], 0
    # split, not slices: its backward is one concatenation, theirs a full-size tensor of zeros each
    for (rows, size), *states in zip(packing.runs, q.split(tokens), k.split(tokens), v.split(tokens)):
        parts = (x.unflatten(0, (rows, size)).transpose(1, 2) for x in states)
        mask = None if window is None or window >= size else _visible(size, causal, window, q.device)
        if packing.seen is not None:
            shown = packing.visible[row : row + rows, None, None, :size]
            mask = shown & (_visible(size, causal, None, q.device) if mask is None else mask)
        if bias is not None:
            corner = bias[:, :, :size, :size]
            mask = corner if mask is None else torch.where(mask, corner, float("-inf"))
        row += rows
        out = functional.scaled_dot_product_attention(
            *parts, attn_mask=mask, scale=scale, is_causal=causal and mask is None
        )
        made.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(made)


def _padded(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float | None, causal: bool, window: int | None,
    bias: Tensor | None = None,
) -> Float[Tensor, "tokens h d"]:  # fmt: skip
    """One call over a padded copy."""
    real, padded = packing.real, []
    for x in (q, k, v):
        wide = x.new_zeros(*real.shape, *x.shape[1:])
        padded.append(wide.index_put((real.nonzero(as_tuple=True)), x).transpose(1, 2))
    mask = packing.visible[:, None, None, :]
    if causal or window is not None:
        mask = mask & _visible(packing.longest, causal, window, q.device)
    if bias is not None:
        mask = torch.where(mask, bias, float("-inf"))
    out = functional.scaled_dot_product_attention(*padded, attn_mask=mask, scale=scale)
    return out.transpose(1, 2)[real]


def _flash(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float | None, causal: bool, window: int | None
) -> Float[Tensor, "tokens h d"]:
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    bounds, longest = packing.bounds, packing.longest
    keys = bounds
    if packing.seen is not None:
        k, v = (x[packing.places < torch.repeat_interleave(packing.seen, packing.lengths)] for x in (k, v))
        keys = torch.cat([bounds[:1], packing.seen.cumsum(0).to(bounds.dtype)])
    return varlen_attn(
        q, k, v, bounds, keys, longest, longest, scale=scale, window_size=(reach, 0 if causal else reach)
    )  # type: ignore[return-value]


@cache
def _has_varlen() -> bool:
    """Whether torch has a variable-length kernel with windows and scale: from 2.11, on Ampere and later."""
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return release >= (2, 11) and torch.cuda.get_device_capability() >= (8, 0)


def _visible(size: int, causal: bool, window: int | None, device: torch.device) -> Bool[Tensor, "size size"]:
    place = torch.arange(size, device=device)
    distance = place[:, None] - place[None]
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen if window is None else seen & (distance.abs() < window)
