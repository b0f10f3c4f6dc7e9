"""One text encoder: backbone, perhaps pooling, linear heads, and all that is needed to write its folder again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor, nn

from ..types import Texts
from .backbone import merged_weights
from .hidden import is_packed, token_vectors
from .lean import slim
from .packing import Packing
from .pooling import Pooling, pool
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Projection(nn.Module):
    """A linear layer over pooled or token vectors, with an activation; one `Dense` module of a model folder."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, activation: str = "Identity") -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation = activation
        self._function: nn.Module = getattr(nn, activation)()

    def forward(self, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        return self._function(self.linear(x))


class Encoder(nn.Module):
    """Token ids to one vector per text, or per token where there is no pooling."""

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: TextTokenizer,
        heads: Iterable[Projection],
        *,
        config: dict[str, Any],
        pooling: Pooling | None,
        include_prompt: bool,
        dims: int | None,
        training_note: str,
    ) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleList(heads)
        self.tokenizer, self.config, self.dims = tokenizer, config, dims
        self.pooling: Pooling | None = pooling
        self.include_prompt, self.training_note = include_prompt, training_note

    @property
    def packed(self) -> bool:
        """Whether texts are packed into one row without padding."""
        return is_packed(self.backbone)

    @property
    def width(self) -> int:
        """Dimensions of the vectors."""
        last = [head.linear.out_features for head in self.projections][-1:] or [self.hidden]
        return min(self.dims or last[0], last[0])

    @property
    def hidden(self) -> int:
        """Dimensions of the backbone's token vectors."""
        return int(self.backbone.config.hidden_size)

    @property
    def projections(self) -> list[Projection]:
        return [head for head in self.heads if isinstance(head, Projection)]

    def forward(self, texts: Texts, *, skip: int = 0) -> Float[Tensor, "rows dim"]:
        """The vectors of one micro-batch; `skip` leading tokens (a prompt) are left out of the pooling."""
        if len(texts) == 0:
            return next(self.parameters()).new_zeros(0, self.width)
        assert self.pooling is not None
        packing = Packing(texts.offsets)
        return self.project(pool(self.tokens(texts, packing), packing, self.pooling, skip=skip))

    def tokens(self, texts: Texts, packing: Packing) -> Float[Tensor, "tokens hidden"]:
        """The backbone's vector of every token of at least one text."""
        texts = texts if self.training else texts.with_keys(None)
        with slim():
            return token_vectors(self.backbone, texts, packing)

    def project(self, values: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows dim"]:
        """Through the linear heads, the first `dims` dimensions kept."""
        for head in self.heads:
            values = head(values)
        return values if self.dims is None else values[:, : self.dims]

    def weights(self) -> dict[str, Tensor]:
        """The backbone's tensors under their plain names."""
        return merged_weights(self.backbone)

    def fingerprint(self) -> str:
        """A content hash of the weights and of everything else that shapes the pooled vectors."""
        state = self.weights() | {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        shape = {
            "weights": content_of(state),
            "config": self.config,
            "pooling": [self.pooling, self.include_prompt],
            "heads": [head.activation for head in self.projections],
            "dims": self.dims,
        }
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def content_of(state: dict[str, Tensor]) -> str:
    """A hash of named tensors."""
    content = xxhash.xxh3_128()
    for name, tensor in sorted(state.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()
