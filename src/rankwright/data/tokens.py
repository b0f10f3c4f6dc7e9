"""Texts tokenised once: token ids in a memory-mapped file, keyed by tokenizer and text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from .. import signals, storage
from ..errors import UsageError
from ..progress import progress
from ..types import Texts
from ._ragged import Ragged, write_ragged

KIND = "tokens"
_CHUNK = 1024  # texts given to the tokenizer at a time: it spreads them over the cores


class TextSequence(Protocol):
    """What a token store is made from: texts by row."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> str: ...


class TokenRows(Protocol):
    """Texts as token ids by row, wherever they lie."""

    @property
    def lengths(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def take(self, rows: np.ndarray) -> Texts: ...


class TokenStore:
    """Token ids by row, unpadded, special tokens included, cut at the ranker's length.

    Attributes:
        key: content hash of tokenizer, its settings and the texts.
    """

    def __init__(self, rows: Ragged, *, key: str) -> None:
        self._rows, self.key = rows, key
        self._lengths: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row (int64 [n]), made when they are first asked for: reading rows needs none."""
        if self._lengths is None:
            self._lengths = np.diff(self._rows.offsets)
        return self._lengths

    @classmethod
    def build(
        cls,
        folder: str | Path,
        texts: TextSequence,
        tokenize: Callable[[list[str]], Texts],
        *,
        key: str,
        vocabulary: int,
    ) -> TokenStore:
        """Tokenise all `texts` into `folder` and open it; two bytes a token where the vocabulary allows, else four.

        Args:
            tokenize: a list of texts -> their token ids (a ranker's `tokenize` for one side).
            key: content hash of tokenizer, its settings and the texts.
            vocabulary: token ids are below this.

        Raises:
            UsageError: `tokenize` gives an id outside the vocabulary, or another number of rows than texts.
        """
        dtype = np.dtype(np.uint16 if vocabulary < 1 << 16 else np.int32).newbyteorder("<")
        meta = {"rows": len(texts), "vocabulary": vocabulary, "dtype": dtype.name}
        with (
            storage.publish(folder, KIND, key=key, meta=meta) as draft,
            write_ragged(draft, "tokens", dtype) as rows,
            progress("tokenise", len(texts), "texts") as bar,
        ):
            for begin in range(0, len(texts), _CHUNK):
                signals.check()
                chunk = [texts[i] for i in range(begin, min(begin + _CHUNK, len(texts)))]
                values, offsets = _checked(tokenize(chunk), len(chunk), vocabulary)
                rows.extend(values.astype(dtype).tobytes(), np.diff(offsets) * dtype.itemsize)
                bar.advance(len(chunk))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """Map the artefact in `folder`.

        Raises:
            ArtefactError: not a token store, or parts of it are missing.
        """
        manifest = storage.read_manifest(folder, KIND)
        return cls(Ragged(manifest.folder, "tokens", manifest.meta["dtype"]), key=manifest.key)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: np.ndarray) -> Texts:
        """The given rows, in that order (values and offsets int64)."""
        import torch

        values, offsets = self._rows.take(np.asarray(rows, np.int64))
        return Texts(torch.from_numpy(values.astype(np.int64)), torch.from_numpy(offsets))


class TokenStores:
    """Token stores side by side: the rows of the first, then those of the next; each stays where it is mapped."""

    def __init__(self, stores: Sequence[TokenStore]) -> None:
        self._stores = tuple(stores)
        self._begins = np.cumsum([0, *map(len, self._stores)])

    def __len__(self) -> int:
        return int(self._begins[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row (int64 [n])."""
        return np.concatenate([store.lengths for store in self._stores])

    def take(self, rows: np.ndarray) -> Texts:
        """The given rows, in that order (values and offsets int64)."""
        import torch

        rows = np.asarray(rows, np.int64)
        of = np.searchsorted(self._begins, rows, side="right") - 1
        parts = [store.take(rows[of == i] - self._begins[i]) for i, store in enumerate(self._stores)]
        lengths = torch.cat([part.lengths for part in parts])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        place = np.empty(len(rows), np.int64)
        place[np.argsort(of, kind="stable")] = np.arange(len(rows))
        return Texts(torch.cat([part.values for part in parts]), offsets).take(torch.from_numpy(place))


def _checked(texts: Texts, rows: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """(values, offsets) of what the tokenizer made of `rows` texts, if it fits."""
    values, offsets = np.asarray(texts.values, np.int64), np.asarray(texts.offsets, np.int64)
    if len(offsets) - 1 != rows:
        raise UsageError(f"the tokenizer made {len(offsets) - 1} rows of {rows} texts", fix="return one row a text")
    outside = (values < 0) | (values >= vocabulary)
    if outside.any():
        raise UsageError(
            f"token id {values[outside][0]} is outside the vocabulary of {vocabulary}",
            fix="the tokenizer does not belong to the model: give the vocabulary with its added tokens",
        )
    return values, offsets
