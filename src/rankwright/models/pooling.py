"""From token vectors to one vector per text: first token, mean, last token."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pooling = Literal["cls", "mean", "last"]


def pool(
    hidden: Float[Tensor, "rows places dim"], lengths: Int[Tensor, " rows"], how: Pooling, *, skip: int = 0
) -> Float[Tensor, "rows dim"]:
    """One vector per text of `lengths` real tokens, which stand first in their rows.

    Args:
        skip: leave the first so many tokens out (a prompt that the model was trained to ignore); at least the last
            token stays.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    first = (lengths - 1).clamp(max=skip)
    if how == "cls":
        return hidden[rows, first]
    if how == "last":
        return hidden[rows, lengths - 1]
    place = torch.arange(hidden.shape[1], device=hidden.device)
    mask = ((place >= first[:, None]) & (place < lengths[:, None]))[..., None].to(hidden.dtype)
    wide = torch.float32 if hidden.dtype in (torch.float16, torch.bfloat16) else hidden.dtype
    mean = (hidden * mask).sum(1, dtype=wide) / mask.sum(1, dtype=wide)
    return mean.to(hidden.dtype)
