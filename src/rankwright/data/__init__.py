"""Data: files of the field in, batches by step number out; knows no model and no loss."""

from __future__ import annotations

from .audit import Audit, audit, suspected_false_negatives
from .batches import Batches, ByDocument, ByLength, EpochPlan, Shuffled
from .by_topic import ByTopic
from .corpus import Corpus
from .dataset import Dataset, default_cache, file_hash
from .formats import read_corpus, read_qrels, read_queries, read_run, write_qrels, write_run
from .groups import Group, OneRelevant, PerGrade, Random, Top, Window
from .loader import Loader
from .mixed import Mixed, Part
from .pairs import HardMargin, MarginBins
from .policy import POLICIES, Reading, policy_table
from .query_files import read_query_ids, read_topics, write_topics
from .sources import Judged, Source, Supervision, dataset_of
from .tokens import TokenStore

__all__ = [
    "POLICIES",
    "Audit",
    "Batches",
    "ByDocument",
    "ByLength",
    "ByTopic",
    "Corpus",
    "Dataset",
    "EpochPlan",
    "Group",
    "HardMargin",
    "Judged",
    "Loader",
    "MarginBins",
    "Mixed",
    "OneRelevant",
    "Part",
    "PerGrade",
    "Random",
    "Reading",
    "Shuffled",
    "Source",
    "Supervision",
    "TokenStore",
    "Top",
    "Window",
    "audit",
    "dataset_of",
    "default_cache",
    "file_hash",
    "policy_table",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_query_ids",
    "read_run",
    "read_topics",
    "suspected_false_negatives",
    "write_qrels",
    "write_run",
    "write_topics",
]
