"""What a recipe says about long texts, for every kind of ranker: more positions, which end is cut; no torch."""

from __future__ import annotations

from typing import Literal, get_args

from ..errors import RecipeError
from .checks import check_choice

Extension = Literal["random", "tiled", "interpolated", "linear", "ntk", "yarn"]
TABLES = ("random", "tiled", "interpolated")  # of a table of position vectors; the others scale rotary frequencies
Cut = Literal["left", "right"]


def check_long(positions: int | None, extension: str | None, query_cut: str | None) -> None:
    """
    Raises:
        RecipeError: one of a specification's fields about long texts is out of range.
    """
    check_choice("extension", extension, get_args(Extension))
    check_choice("query_cut", query_cut, get_args(Cut))
    if positions is not None and positions < 8:
        raise RecipeError(f"positions is {positions}", fix="give the tokens that a text may have, e.g. 8192")
    if extension is not None and positions is None:
        raise RecipeError(f"extension: {extension} without positions", fix="positions: 8192, or leave extension out")
