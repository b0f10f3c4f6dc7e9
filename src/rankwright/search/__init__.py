"""Encode, search and mine: vectors on disk, exact, approximate and lexical indexes, hard negatives."""

from __future__ import annotations

from .ann import Ann, AnnIndex, recall
from .encode import embed, encode
from .exact import Exact
from .index import Index, open_ranking, search_into
from .lexical import BM25, LexicalIndex
from .mine import Mine, MineReport, mine
from .topics import Clusters, k_means
from .vectors import Vectors

__all__ = [
    "BM25",
    "Ann",
    "AnnIndex",
    "Clusters",
    "Exact",
    "Index",
    "LexicalIndex",
    "Mine",
    "MineReport",
    "Vectors",
    "embed",
    "encode",
    "k_means",
    "mine",
    "open_ranking",
    "recall",
    "search_into",
]
