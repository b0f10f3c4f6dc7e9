"""The arithmetic of encoders: which precision a machine computes natively, and autocast to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from ..errors import UsageError
from ..types import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def chosen(precision: Precision, device: str) -> Literal["float32", "bf16", "fp16"]:
    """What `precision` means here: ``auto`` is bf16 where the device multiplies it natively, float32 elsewhere.

    Raises:
        UsageError: half precision that this device would only emulate, many times slower than float32.
    """
    kind = torch.device(device).type
    native = {"float32", *(["bf16"] if native_bf16(kind) else []), *(["fp16"] if kind == "cuda" else [])}
    if precision == "auto":
        return "bf16" if "bf16" in native else "float32"
    if precision not in native:
        raise UsageError(
            f"precision: {precision} on this {kind} is many times slower than float32", fix="use precision: auto"
        )
    return precision


def native_bf16(kind: str) -> bool:
    """Whether a kind of device (cpu, cuda, mps) multiplies bfloat16 natively."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and any(  # torch has no public question for this
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def autocast(precision: Literal["float32", "bf16", "fp16"], device: str) -> Callable[[], AbstractContextManager]:
    """A context for `represent`: matrix products in `precision`; weights, norms and sums of them stay in float32."""
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(torch.device(device).type, dtype=_DTYPES[precision])
