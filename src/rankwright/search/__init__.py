"""Encode, search and mine: vectors on disk, exact, approximate, late-interaction and lexical indexes, negatives."""

from __future__ import annotations

from .ann import Ann, AnnIndex, recall
from .encode import embed, encode
from .exact import Exact
from .index import Index, open_ranking, search_into
from .late import LateIndex, exact_index
from .lexical import BM25, LexicalIndex
from .mine import Mine, MineReport, mine
from .token_vectors import TokenVectors
from .vectors import Vectors

__all__ = [
    "BM25",
    "Ann",
    "AnnIndex",
    "Exact",
    "Index",
    "LateIndex",
    "LexicalIndex",
    "Mine",
    "MineReport",
    "TokenVectors",
    "Vectors",
    "embed",
    "encode",
    "exact_index",
    "mine",
    "open_ranking",
    "recall",
    "search_into",
]
