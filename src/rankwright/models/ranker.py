"""The abstract Ranker: all that training and search may know of a model."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..types import Document, Reps, Side, Texts


class Ranker(torch.nn.Module, ABC):
    """Turns texts into representations row by row (`represent`, costly) and compares them (`compare`, cheap).

    Because `represent` treats each row on its own, a caller may cut the rows into micro-batches as memory allows;
    because `compare` sees all rows, any loss can be computed from what it returns.
    """

    @property
    @abstractmethod
    def limits(self) -> dict[Side, int]:
        """Tokens a text may have on each side, special tokens included."""

    @property
    def longest(self) -> dict[Side, int]:
        """The most that `limits` could be: tokens that it has positions for; without end where texts are cut to fit."""
        return {"query": sys.maxsize, "doc": sys.maxsize}

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Token ids lie in 0..vocabulary-1."""

    @property
    @abstractmethod
    def training_note(self) -> str:
        """How texts are batched and which dropout is applied in training, for the log."""

    @property
    @abstractmethod
    def packed(self) -> bool:
        """Whether `represent` computes real tokens only: texts cost their tokens then, else rows x longest."""

    @property
    def normalised(self) -> bool | None:
        """Whether vectors have length 1; None: they are no vectors whose first dimensions mean anything alone."""
        return None

    @property
    def similarity(self) -> Literal["dot", "cosine"] | None:
        """How vectors are compared; None: there are none."""
        return None

    @property
    @abstractmethod
    def vectors_per_text(self) -> Literal["one", "many", "none"]:
        """Whether a text's representation is one vector or one per token: how it is stored and searched.

        ``none``: a cross-encoder, which scores pairs and cannot search.
        """

    @property
    def best_of(self) -> int:
        """Of a document's many vectors, how many best ones a query vector's score is the mean of."""
        return 1

    @property
    def pairing(self) -> Callable[[Texts, Texts], Texts] | None:
        """Joins queries and documents row by row into the texts that `represent` scores; None: it takes them apart."""
        return None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def render(self, document: Document) -> str:
        """The document as one string, by the title/text template."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], side: Side, *, limit: int | None = None) -> Texts:
        """Ragged token ids: the side's prompt before each text, cut to `limit` tokens, special tokens kept.

        `limit` None: the side's own length.
        """

    @abstractmethod
    def represent(self, texts: Texts, side: Side) -> Reps:
        """The representations of one micro-batch, in row order.

        In training mode, with ``texts.keys``, dropout is on and each text's masks are a pure function of its key:
        the same text under the same key gives the same row in any company. No texts give no rows, in the width and
        precision of any others: a process may have nothing to do.
        """

    @abstractmethod
    def compare(self, queries: Reps, docs: Reps, *, pairs: Int[Tensor, "q n"] | None = None) -> Float[Tensor, "q m"]:
        """Scores of all queries against all docs, or of query i against the docs ``pairs[i]`` only."""

    @abstractmethod
    def tokenizer_key(self, side: Side, *, limit: int | None = None) -> str:
        """A content hash of everything that shapes the side's token ids."""

    @abstractmethod
    def fingerprint(self, side: Side) -> str:
        """A content hash of everything that shapes the side's representations, the weights included."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model folder into `folder`, an existing draft."""
