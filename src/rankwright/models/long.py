"""What a recipe says about long texts, for every kind of ranker: more positions, which end is cut, chunks; no torch."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Chunks:
    """A document longer than the model reads: in overlapping chunks, whose scores become the document's.

    A document's score is that of its best chunk (``max``, MaxP), the mean over all (``mean``) or over the `top` best
    (``top``; Dai, Callan, arXiv:1905.09217), in training as in search.

    Args:
        length: tokens of a chunk, special tokens and prompt included; of a cross-encoder the query too.
        overlap: tokens that a chunk shares with the one before; half of what a long prompt or query leaves, at most.
        score: which chunks count. Of token vectors (`Late`) ``max`` alone: the best token of all chunks.
        top: how many count with ``top``.
    """

    length: int = 256
    overlap: int = 64
    score: Literal["max", "mean", "top"] = "max"
    top: int = 3

    def __post_init__(self) -> None:
        check_choice("score", self.score, ("max", "mean", "top"))
        if self.length < 16 or not 0 <= self.overlap <= self.length // 2:
            what = f"chunks of {self.length} tokens, {self.overlap} of them shared"
            raise RecipeError(
                what, fix="length 16 or more, overlap half of it at most, e.g. {length: 256, overlap: 64}"
            )
        if self.top < 1:
            raise RecipeError(f"top is {self.top}", fix="give 1 or more, e.g. 3")

    @property
    def best(self) -> int:
        """How many of the best chunks a score is the mean of, where it is not the mean of all."""
        return self.top if self.score == "top" else 1


WHOLE = 8192  # tokens of a document that is read in chunks, where no length is given
