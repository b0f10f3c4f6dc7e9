"""More positions for a checkpoint: its table of position vectors is continued, or its rotary frequencies are scaled.

The checkpoint's config and tensors are changed before the model is built, so that it is a plain model of its new
length: it is trained, saved and opened by others as one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArtefactError, RecipeError
from ..randomness import key
from .long import TABLES, Extension

Grow = Callable[[dict[str, Tensor]], None]  # continues the tables among a checkpoint's tensors, in place

_TABLE = "position_embeddings.weight"


def extend(config: dict[str, Any], positions: int, how: Extension | None, *, seed: int, where: Path) -> Grow:
    """Give the model of `config` (changed in place) that many positions; what then has to be done to its tensors.

    Args:
        how: of a table: ``random``: the old vectors, then draws from N(0, initializer_range), as
            LongSeqEfficientTrainer has it; ``tiled``, the default: the old vectors over and over (arXiv:2004.05150);
            ``interpolated``: the old vectors stretched. Of rotary frequencies: ``linear`` (arXiv:2306.15595), ``ntk``:
            a larger base, ``yarn`` (arXiv:2309.00071), the default. Sliding windows see no further and stay.

    Raises:
        RecipeError: fewer positions than there are, or a way that is not this architecture's.
    """
    from transformers import CONFIG_MAPPING

    from .backbone import FAMILIES, first_position

    kind = config["model_type"]
    made = CONFIG_MAPPING[kind].from_dict({name: value for name, value in config.items() if name != "model_type"})
    if FAMILIES[kind].relative:
        what = f"{kind} has no positions to extend: it measures distances"
        raise RecipeError(what, where=where, fix="leave positions out and give doc_length")
    first = first_position(made)
    there = made.max_position_embeddings - first
    if positions <= there:
        what = f"positions is {positions}, the model has {there} already"
        raise RecipeError(what, where=where, fix="leave positions out, and give query_length and doc_length")
    rotary = getattr(made, "rope_parameters", None)
    if how is not None and (how in TABLES) != (rotary is None):
        fits = "linear, ntk or yarn" if rotary is not None else ", ".join(TABLES)
        raise RecipeError(f"extension: {how} is not for {kind}", where=where, fix=f"choose {fits}")
    config["max_position_embeddings"] = positions + first
    if rotary is None:
        spread = float(getattr(made, "initializer_range", 0.02))
        return lambda weights: _continue(weights, first, positions, how or "tiled", spread, seed, where)
    dim = getattr(made, "head_dim", None) or made.hidden_size // made.num_attention_heads
    config["rope_parameters"] = _scaled(rotary, how or "yarn", there, positions, dim, where)
    for old in ("rope_scaling", "rope_theta", "global_rope_theta", "local_rope_theta"):  # said by rope_parameters now
        config.pop(old, None)
    return lambda weights: None


def _continue(
    weights: dict[str, Tensor], first: int, positions: int, how: Extension, spread: float, seed: int, where: Path
) -> None:
    names = [name for name in weights if name.endswith(_TABLE)]
    if not names:
        raise ArtefactError(f"no tensor ends in {_TABLE}", where=where, fix="leave positions out")
    for name in names:
        table = weights[name]
        weights[name] = torch.cat([table[:first], longer(table[first:], positions, how, spread=spread, seed=seed)])


def longer(
    table: Float[Tensor, "old dim"], positions: int, how: Extension, *, spread: float = 0.02, seed: int = 0
) -> Float[Tensor, "positions dim"]:
    """A longer table of position vectors; see `extend`."""
    old = len(table)
    if how == "tiled":
        return table[torch.arange(positions) % old].contiguous()
    if how == "interpolated":
        place = torch.arange(positions, dtype=torch.float64) * ((old - 1) / (positions - 1))
        left = place.floor().long().clamp(max=old - 2)
        share = (place - left)[:, None]
        made = table[left].double() * (1 - share) + table[left + 1].double() * share
        return made.to(table.dtype)
    generator = torch.Generator().manual_seed(key(seed, "positions", old, positions))
    drawn = torch.empty(positions - old, table.shape[1]).normal_(0, spread, generator=generator)
    return torch.cat([table, drawn.to(table.dtype)])


def _scaled(
    rotary: dict[str, Any], how: Extension, old: int, new: int, dim: int, where: Path
) -> dict[str, Any]:  # fmt: skip
    """The rotary parameters for `new` positions; of those by kind of layer, the ones of full attention."""
    if "full_attention" in rotary:
        full = _scaled(rotary["full_attention"], how, old, new, dim, where)
        return {**rotary, "full_attention": full}
    if rotary.get("rope_type", "default") != "default":
        what = f"the model's rotary positions are scaled already ({rotary['rope_type']})"
        raise RecipeError(what, where=where, fix="start from the model as it was before")
    factor = new / old
    if how == "ntk":
        turning = dim * rotary.get("partial_rotary_factor", 1.0)
        return {**rotary, "rope_theta": rotary["rope_theta"] * factor ** (turning / (turning - 2))}
    more = {"original_max_position_embeddings": old} if how == "yarn" else {}
    return {**rotary, "rope_type": how, "factor": factor, **more}
