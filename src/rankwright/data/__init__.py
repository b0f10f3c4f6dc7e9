"""Data: files of the field in, batches by step number out; knows no model and no loss."""

from __future__ import annotations

from .audit import Audit, audit, suspected_false_negatives
from .batches import Batches, ByDocument, EpochPlan, Shuffled
from .corpus import Corpus
from .dataset import Dataset, default_cache, file_hash
from .formats import read_corpus, read_qrels, read_queries, read_run, write_qrels, write_run
from .groups import Group, OneRelevant, Random, Top
from .keeping import Keep
from .loader import Loader
from .mixture import Collection, Mixture
from .policy import POLICIES, Reading, policy_table
from .scores import read_scores, read_triples
from .sources import Judged, Ranking, Scored, Source, Triples
from .supervision import Supervision
from .tokens import TokenRows, TokenStore, TokenStores

__all__ = [
    "POLICIES",
    "Audit",
    "Batches",
    "ByDocument",
    "Collection",
    "Corpus",
    "Dataset",
    "EpochPlan",
    "Group",
    "Judged",
    "Keep",
    "Loader",
    "Mixture",
    "OneRelevant",
    "Random",
    "Ranking",
    "Reading",
    "Scored",
    "Shuffled",
    "Source",
    "Supervision",
    "TokenRows",
    "TokenStore",
    "TokenStores",
    "Top",
    "Triples",
    "audit",
    "default_cache",
    "file_hash",
    "policy_table",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "read_scores",
    "read_triples",
    "suspected_false_negatives",
    "write_qrels",
    "write_run",
]
