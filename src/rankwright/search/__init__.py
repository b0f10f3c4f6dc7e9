"""Encode, search and mine: vectors on disk, exact, approximate, late-interaction and lexical indexes, negatives."""

from __future__ import annotations

from .ann import Ann, AnnIndex, recall
from .encode import embed, encode
from .exact import Exact
from .index import Index, open_ranking, search_into
from .late import LateIndex, exact_index
from .lexical import BM25, LexicalIndex
from .mine import Mine, MineReport, mine
from .rerank import rerank, rerank_together
from .runs import Fuse, Tuned, fuse, tune_fusion, without_self
from .token_vectors import TokenVectors
from .topics import Clusters, k_means
from .vectors import Vectors

__all__ = [
    "BM25",
    "Ann",
    "AnnIndex",
    "Clusters",
    "Exact",
    "Fuse",
    "Index",
    "LateIndex",
    "LexicalIndex",
    "Mine",
    "MineReport",
    "TokenVectors",
    "Tuned",
    "Vectors",
    "embed",
    "encode",
    "exact_index",
    "fuse",
    "k_means",
    "mine",
    "open_ranking",
    "recall",
    "rerank",
    "rerank_together",
    "search_into",
    "tune_fusion",
    "without_self",
]
