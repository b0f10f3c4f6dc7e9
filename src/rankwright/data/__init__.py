"""Data: files of the field in, batches by step number out; knows no model and no loss."""

from __future__ import annotations

from .audit import Audit, audit, suspected_false_negatives
from .batches import Batches, ByDocument, EpochPlan, Shuffled
from .corpus import Corpus
from .dataset import Dataset, default_cache, file_hash
from .formats import read_corpus, read_qrels, read_queries, read_run, write_qrels, write_run
from .groups import Group, OneRelevant, Random, Top
from .loader import Loader
from .policy import POLICIES, Reading, policy_table
from .sources import Judged, Source, Supervision, dataset_of
from .tokens import TokenStore

__all__ = [
    "POLICIES",
    "Audit",
    "Batches",
    "ByDocument",
    "Corpus",
    "Dataset",
    "EpochPlan",
    "Group",
    "Judged",
    "Loader",
    "OneRelevant",
    "Random",
    "Reading",
    "Shuffled",
    "Source",
    "Supervision",
    "TokenStore",
    "Top",
    "audit",
    "dataset_of",
    "default_cache",
    "file_hash",
    "policy_table",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "suspected_false_negatives",
    "write_qrels",
    "write_run",
]
