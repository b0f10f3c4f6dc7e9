"""Dropout as a pure function of the text: its masks come from the text's key, never from a generator's state.

A mask value depends on (text key, number of the dropout module, how often that module ran in this forward, token
position, dimension) and on nothing else: not on the micro-batch, its order, its padding, the device or the threads.
So a second pass over the same texts, in other company, replays the first one exactly, as gradient caching needs.
The bits come from SplitMix64 (Steele et al., OOPSLA 2014), used as a counter-based generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_LANES, _LEVELS = 4, 1 << 16  # one 64-bit word serves 4 dimensions with 16 bits each


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _xor_shift_(words: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    return words.bitwise_xor_((words >> bits).bitwise_and_((1 << (64 - bits)) - 1))  # a logical shift


def _mix_(words: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """SplitMix64's finaliser, in place; int64 wraps around."""
    _xor_shift_(words, 30).mul_(_signed(_MULTIPLIERS[0]))
    _xor_shift_(words, 27).mul_(_signed(_MULTIPLIERS[1]))
    return _xor_shift_(words, 31)


@dataclass
class _Forward:
    """One forward pass: the key and the position of every token place, and how often each module has run."""

    keys: Int[Tensor, " rows #places"]
    positions: Int[Tensor, "#rows places"]
    uses: dict[int, int] = field(default_factory=dict)


_current: ContextVar[_Forward | None] = ContextVar("rankwright_dropout", default=None)


@contextmanager
def drawing(keys: Int[Tensor, " rows #places"] | None, positions: Int[Tensor, "#rows places"]) -> Iterator[None]:
    """Within the block, `KeyedDropout` drops in [rows, places, dim] tensors; keys None: nothing is dropped.

    Args:
        keys: of the text that each place belongs to.
        positions: each place's position within its text.
    """
    token = _current.set(None if keys is None else _Forward(keys, positions))
    try:
        yield
    finally:
        _current.reset(token)


class _Replay:
    """Re-enters the forward pass as it stood at one point; gradient checkpointing recomputes from there."""

    def __init__(self) -> None:
        forward = _current.get()
        self._forward = None if forward is None else replace(forward, uses=dict(forward.uses))
        self._token: Token | None = None

    def __enter__(self) -> None:
        forward = self._forward
        self._token = _current.set(None if forward is None else replace(forward, uses=dict(forward.uses)))

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _current.reset(self._token)


def checkpoint_contexts() -> tuple[nullcontext, _Replay]:
    """The `context_fn` of `torch.utils.checkpoint`: the recomputation draws the masks of the first time.

    The recomputation may run in autograd's own thread, where the forward's context is unknown; hence the copy.
    """
    return nullcontext(), _Replay()


class KeyedDropout(nn.Module):
    """Dropout with probability `p` (rounded to 1/65536) and unbiased scale, drawn by the current texts' keys."""

    def __init__(self, p: float, number: int) -> None:
        super().__init__()
        self.p, self.number = p, number

    def extra_repr(self) -> str:
        return f"p={self.p}, number={self.number}"

    def forward(self, x: Float[Tensor, "rows *places dim"]) -> Float[Tensor, "rows *places dim"]:
        """``[rows, dim]`` (a classifier's pooled vectors) is dropped in as the first place of each row."""
        forward = _current.get()
        dropped = round(self.p * _LEVELS)
        if not self.training or forward is None or dropped == 0:
            return x
        keys, positions = forward.keys, forward.positions
        if x.dim() == 2:
            keys, positions, x = keys[:, :1], positions[:, :1], x[:, None]
            return self._dropped(x, keys, positions, forward, dropped)[:, 0]
        return self._dropped(x, keys, positions, forward, dropped)

    def _dropped(
        self,
        x: Float[Tensor, "rows places dim"],
        keys: Int[Tensor, " rows #places"],
        positions: Int[Tensor, "#rows places"],
        forward: _Forward,
        dropped: int,
    ) -> Float[Tensor, "rows places dim"]:
        shape = (keys.shape[0], positions.shape[1])
        assert (*shape, x.shape[-1]) == x.shape, f"dropout met a tensor {tuple(x.shape)}, expected {shape} + dim"
        use = forward.uses.get(self.number, 0)
        forward.uses[self.number] = use + 1
        stream = _signed(_GOLDEN * (1 + self.number + (use << 32)))
        seeds = _mix_(_mix_(keys + stream) ^ stream)  # a stream of words per text and module
        width = -(-x.shape[2] // _LANES)
        words = torch.arange(width, device=seeds.device) + positions[..., None] * width
        bits = _mix_(seeds[..., None] + words.mul_(_signed(_GOLDEN))).view(torch.int16)
        kept = (bits >= dropped - _LEVELS // 2)[..., : x.shape[2]]
        return x * kept * (_LEVELS / (_LEVELS - dropped))


def use_keyed_dropout(model: nn.Module) -> None:
    """Replace every active nn.Dropout in `model` by a `KeyedDropout`, numbered in the order of the modules' names."""
    active = sorted(name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0)
    for number, name in enumerate(active):
        parent, _, child = name.rpartition(".")
        old = model.get_submodule(name)
        assert isinstance(old, nn.Dropout)
        setattr(model.get_submodule(parent), child, KeyedDropout(old.p, number))
