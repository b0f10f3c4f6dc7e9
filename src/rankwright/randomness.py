"""Randomness as a pure function: every draw is keyed by (seed, purpose, indices), never by a generator's state."""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, purpose: str, *indices: int | str) -> int:
    """A 63-bit key for one purpose, e.g. ``key(seed, "dropout", step, text_id)``.

    Distinct tuples give independent keys: the tuple is hashed with an unambiguous separator (BLAKE2b).
    """
    text = "\x1f".join([str(int(seed)), purpose, *(f"{type(i).__name__}:{i}" for i in indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *indices: int | str) -> np.random.Generator:
    """A NumPy generator (Philox, counter-based) that depends on its arguments alone."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *indices)))


def permutation(n: int, seed: int, purpose: str, *indices: int | str) -> np.ndarray:
    """A random order of 0..n-1 (int64 [n]), a pure function of its arguments."""
    return generator(seed, purpose, *indices).permutation(n)
