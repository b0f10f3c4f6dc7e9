"""Token ids to token vectors through a backbone: packed where it gives the padded path's numbers, else padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..types import Texts
from .backbone import FAMILIES, first_position, position_limit
from .dropout import drawing
from .packing import NAME, Packing, attend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest value
_HALF_TOLERANCE = 0.05
_CHECKED_LENGTHS = (150, 33, 33, 9)  # beyond ModernBERT's window of 128, neighbours of equal and unequal length


def token_vectors(backbone: PreTrainedModel, texts: Texts, packing: Packing) -> Float[Tensor, "tokens dim"]:
    """The last layer's vector of every token; with ``texts.keys``, under each text's own dropout masks."""
    return (_packed if is_packed(backbone) else _padded)(backbone, texts, packing)


def is_packed(backbone: PreTrainedModel) -> bool:
    return backbone.config._attn_implementation == NAME


def _packed(backbone: PreTrainedModel, texts: Texts, packing: Packing) -> Float[Tensor, "tokens dim"]:
    ids = texts.values.to(torch.int64)
    keys = None if texts.keys is None else torch.repeat_interleave(texts.keys, packing.lengths)[None]
    with drawing(keys, packing.places[None]):
        given = {"input_ids": ids[None], "position_ids": _positions(backbone, ids, packing)[None]}
        if texts.second is not None:
            segments = packing.places >= torch.repeat_interleave(texts.second, packing.lengths)
            given["token_type_ids"] = segments.to(torch.int64)[None]
        made = backbone(**given, packing=packing, return_dict=True)
    return made.last_hidden_state[0]


def _padded(backbone: PreTrainedModel, texts: Texts, packing: Packing) -> Float[Tensor, "tokens dim"]:
    return padded_outputs(backbone, texts, packing).last_hidden_state[packing.real]


def padded_outputs(backbone: PreTrainedModel, texts: Texts, packing: Packing) -> Any:
    """What transformers' own forward pass over a padded matrix gives; with ``texts.keys``, under their dropout."""
    real = packing.real
    ids = torch.full(real.shape, backbone.config.pad_token_id or 0, dtype=torch.int64, device=real.device)
    ids.masked_scatter_(real, texts.values.to(torch.int64))
    whole = len(texts.values) == ids.numel() and packing.seen is None
    mask = None if whole else packing.visible.long()  # no padding: torch's fastest attention
    keys = None if texts.keys is None else texts.keys[:, None]
    given = {"input_ids": ids, "attention_mask": mask}
    if texts.second is not None:
        places = torch.arange(packing.longest, device=real.device)
        given["token_type_ids"] = (real & (places >= texts.second[:, None])).to(torch.int64)
    with drawing(keys, torch.arange(packing.longest, device=real.device)[None]):
        return backbone(**given, return_dict=True)


def _positions(backbone: PreTrainedModel, ids: Int[Tensor, " tokens"], packing: Packing) -> Int[Tensor, " tokens"]:
    """Position ids; RoBERTa's begin behind the padding token's id and count no token that is one."""
    first = first_position(backbone.config)
    if first == 0:
        return packing.places
    counted = (ids != first - 1).to(torch.int64)
    before = torch.cat([counted.new_zeros(1), counted.cumsum(0)])
    within = before[1:] - torch.repeat_interleave(before[packing.offsets[:-1]], packing.lengths)
    return within * counted + first - 1


def _bias_of_the_longest(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before T5's first attention, which would build its position bias for the whole packed row."""
    packing = kwargs.get("packing")
    if packing is not None and kwargs.get("position_bias") is None:
        kwargs["position_bias"] = module.compute_bias(packing.longest, packing.longest)  # type: ignore[operator]
    return args, kwargs


# --- the check at load --------------------------------------------------------------------------


def adopt_packing(backbone: PreTrainedModel) -> str:
    """Put the backbone on the packed path if that gives the padded path's numbers; a note that says which.

    Some architectures ignore the attention interface and would silently mix texts; so the numbers decide.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    usual = backbone.config._attn_implementation
    if usual != "sdpa":
        return f"padded ({usual} attention)"
    if not FAMILIES[backbone.config.model_type].packs:
        return "padded (its position bias is built anew in every layer)"
    for module in backbone.modules():
        if getattr(module, "has_relative_attention_bias", False):
            module.register_forward_pre_hook(_bias_of_the_longest, with_kwargs=True)
    lengths = torch.tensor([min(length, position_limit(backbone)) for length in _CHECKED_LENGTHS])
    ids = torch.randint(
        1, backbone.config.vocab_size, (int(lengths.sum()),), generator=torch.Generator().manual_seed(0)
    )
    texts = Texts(ids, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        expected = _padded(backbone, texts, Packing(texts.offsets))
        backbone.set_attn_implementation(NAME)
        made = _packed(backbone, texts, Packing(texts.offsets))
    backbone.train(training)
    difference = float((made - expected).abs().max() / expected.abs().max())
    if difference <= _TOLERANCE.get(expected.dtype, _HALF_TOLERANCE):
        return "packed"
    backbone.set_attn_implementation(usual)
    return "padded (this architecture mixes packed texts)"
