"""A sequence classifier of one output over packed texts: the encoder's tokens, then the checkpoint's own head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..types import Texts
from .dropout import drawing
from .firsts import first_vectors, mark_last_layer
from .hidden import is_packed, padded_outputs, token_vectors
from .lean import slim
from .packing import Packing
from .pooling import Pooling, pool

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Head = Callable[[Any, Float[Tensor, "rows hidden"]], Float[Tensor, "rows 1"]]  # of the whole model's modules


def _pooler(whole: Any, first: Tensor) -> Tensor:
    return whole.classifier(whole.dropout(whole.base_model.pooler(first[:, None])))


def _albert(whole: Any, first: Tensor) -> Tensor:
    encoder = whole.base_model
    return whole.classifier(whole.dropout(encoder.pooler_activation(encoder.pooler(first))))


def _head_module(whole: Any, first: Tensor) -> Tensor:
    return whole.classifier(first[:, None])


def _distilbert(whole: Any, first: Tensor) -> Tensor:
    return whole.classifier(whole.dropout(whole.pre_classifier(first).relu()))


def _modernbert(whole: Any, pooled: Tensor) -> Tensor:
    return whole.classifier(whole.drop(whole.head(pooled)))


def _decoder(whole: Any, last: Tensor) -> Tensor:
    return whole.score(last)


_HEADS: dict[str, tuple[Pooling, Head]] = {
    **dict.fromkeys(("bert", "nomic_bert"), ("cls", _pooler)),
    **dict.fromkeys(("electra", "roberta", "xlm-roberta", "camembert", "mpnet"), ("cls", _head_module)),
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral"), ("last", _decoder)),
    "albert": ("cls", _albert), "distilbert": ("cls", _distilbert), "modernbert": ("cls", _modernbert),
}  # fmt: skip
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 0.05


def _language_model(whole: Any, last: Tensor) -> Tensor:
    return whole.lm_head(last)


class Classifier(nn.Module):
    """Token ids to one score a text; how the head is applied was compared with the model's own forward pass.

    Args:
        answers: of a causal language model: two tokens, whose logits behind the text are compared.
    """

    def __init__(self, whole: PreTrainedModel, *, answers: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.whole, self.answers = whole, answers
        how, head = _HEADS.get(whole.config.model_type, ("cls", None))
        if answers is not None:
            how, head = "last", _language_model
        elif whole.config.model_type == "modernbert":
            how = whole.config.classifier_pooling
        self._how: Pooling = how
        self._first_alone = False
        self._head = partial(head, whole) if head is not None else None
        if self._head is not None and not self._agrees():
            self._head = None
        self._first_alone = how == "cls" and mark_last_layer(self.backbone)

    @property
    def backbone(self) -> PreTrainedModel:
        """The encoder under the head."""
        return self.whole.base_model  # type: ignore[return-value]

    @property
    def split(self) -> bool:
        """Whether encoder and head are run apart, as packing needs it; else the whole model runs padded."""
        return self._head is not None

    @property
    def packed(self) -> bool:
        return self.split and is_packed(self.backbone)

    def forward(self, texts: Texts) -> Float[Tensor, " rows"]:
        if len(texts) == 0:
            return next(self.parameters()).new_zeros(0)
        texts = texts if self.training else texts.with_keys(None)
        packing = Packing(texts.offsets)
        with slim():
            return self._scores(texts, packing)

    def _scores(self, texts: Texts, packing: Packing) -> Float[Tensor, " rows"]:
        if self._head is None:
            return self._own_scores(texts, packing)
        if self._first_alone:
            pooled = first_vectors(self.backbone, texts, packing)
        else:
            pooled = pool(token_vectors(self.backbone, texts, packing), packing, self._how)
        keys = None if texts.keys is None else texts.keys[:, None]
        with drawing(keys, packing.offsets.new_zeros(1, 1)):
            return self._read(self._head(pooled))

    def _own_scores(self, texts: Texts, packing: Packing) -> Float[Tensor, " rows"]:
        """By the model's own forward pass."""
        logits = padded_outputs(self.whole, texts, packing).logits
        if self.answers is not None:
            logits = logits[torch.arange(len(texts), device=logits.device), packing.lengths - 1]
        return self._read(logits)

    def _read(self, logits: Float[Tensor, "rows labels"]) -> Float[Tensor, " rows"]:
        if self.answers is None:
            return logits[:, 0]
        return logits[:, self.answers[0]] - logits[:, self.answers[1]]

    def _agrees(self) -> bool:
        """Whether encoder and head apart give the scores of the model's own forward pass, on two texts."""
        ids = torch.randint(1, self.whole.config.vocab_size, (20,), generator=torch.Generator().manual_seed(0))
        texts = Texts(ids, torch.tensor([0, 13, 20]))
        with torch.no_grad():
            packing = Packing(texts.offsets)
            expected, made = self._own_scores(texts, packing), self._scores(texts, packing)
        difference = float((made - expected).abs().max() / expected.abs().max().clamp(min=1e-3))
        return difference <= _TOLERANCE.get(expected.dtype, _HALF_TOLERANCE)
