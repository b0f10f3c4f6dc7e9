"""From token vectors to one vector per text: first token, mean, last token."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .packing import Packing

Pooling = Literal["cls", "mean", "last"]


def pool(
    hidden: Float[Tensor, "tokens dim"], packing: Packing, how: Pooling, *, skip: int = 0
) -> Float[Tensor, "rows dim"]:
    """One vector per text.

    Args:
        skip: leave the first so many tokens out (a prompt that the model was trained to ignore); at least the last
            token stays.
    """
    first = (packing.lengths - 1).clamp(max=skip)
    if how == "cls":
        return hidden[packing.offsets[:-1] + first]
    if how == "last":
        return hidden[packing.offsets[1:] - 1]
    lengths = packing.lengths - first
    if skip:
        hidden = hidden[packing.places >= torch.repeat_interleave(first, packing.lengths)]
    wide = torch.float32 if hidden.dtype in (torch.float16, torch.bfloat16) else hidden.dtype
    return torch.segment_reduce(hidden.to(wide), "mean", lengths=lengths).to(hidden.dtype)
