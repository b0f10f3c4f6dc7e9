"""Randomness as a pure function: every draw is keyed by (seed, purpose, indices), never by a generator's state."""

from __future__ import annotations

import hashlib
import operator

import numpy as np


def key(seed: int, purpose: str, *indices: int | str) -> int:
    """A 63-bit key for one purpose, e.g. ``key(seed, "dropout", step, text_id)``.

    Distinct tuples give independent keys: the tuple is hashed (BLAKE2b) in a form that no other tuple shares. An
    integer counts by its value, whether Python's or NumPy's.
    """
    text = "\x1f".join([str(int(seed)), _escaped(purpose), *map(_part, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1


def _part(index: int | str) -> str:
    return f"str:{_escaped(index)}" if isinstance(index, str) else f"int:{operator.index(index)}"


def _escaped(text: str) -> str:
    """Without the separator, and still one to one."""
    return text.replace("\x1e", "\x1e0").replace("\x1f", "\x1e1")


def generator(seed: int, purpose: str, *indices: int | str) -> np.random.Generator:
    """A NumPy generator (Philox, counter-based) that depends on its arguments alone."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *indices)))


def permutation(n: int, seed: int, purpose: str, *indices: int | str) -> np.ndarray:
    """A random order of 0..n-1 (int64 [n]), a pure function of its arguments."""
    return generator(seed, purpose, *indices).permutation(n)
