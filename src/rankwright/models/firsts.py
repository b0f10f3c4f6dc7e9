"""What a score from a text's first token needs of an encoder's last layer: behind its attention, that token alone."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from ..types import Texts
from .hidden import is_packed, token_vectors
from .packing import Packing
from .pooling import pool

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FAMILIES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
_places: ContextVar[Tensor | None] = ContextVar("rankwright_firsts", default=None)


def mark_last_layer(backbone: PreTrainedModel) -> bool:
    """Prepare an encoder for `first_vectors`; False: of this family every token goes through the whole last layer."""
    if backbone.config.model_type not in _FAMILIES:
        return False
    layers: Any = backbone.get_submodule("encoder.layer")
    layers[-1].get_submodule("attention.output").register_forward_pre_hook(_keep)
    return True


def first_vectors(backbone: PreTrainedModel, texts: Texts, packing: Packing) -> Float[Tensor, "rows dim"]:
    """The last layer's vector of each text's first token, by a marked encoder.

    Tokens see each other in attention only, so the last layer's other parts, nine tenths of its work, are spared the
    other tokens. Not where dropout is drawn, which knows all tokens by their place.
    """
    if texts.keys is not None or not is_packed(backbone):
        return pool(token_vectors(backbone, texts, packing), packing, "cls")
    before = _places.set(packing.offsets[:-1])
    try:
        return token_vectors(backbone, texts, packing)
    finally:
        _places.reset(before)


def _keep(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """The first tokens of what attention hands on and of what it was given, [1, tokens, dim] each."""
    places = _places.get()
    return None if places is None else tuple(states[:, places] for states in given)
