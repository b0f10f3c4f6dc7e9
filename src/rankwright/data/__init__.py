"""Data: files of the field in, batches by step number out; knows no model and no loss."""

from __future__ import annotations

from .answer_files import Question, read_answers, read_questions, write_retrieved
from .audit import Audit, audit, suspected_false_negatives
from .batches import Batches, ByDocument, ByLength, EpochPlan, Shuffled
from .by_topic import ByTopic
from .corpus import Corpus
from .dataset import Dataset, default_cache, file_hash
from .drawn import Drawn
from .formats import read_corpus, read_qrels, read_queries, read_run, write_qrels, write_run
from .groups import Group, OneRelevant, PerGrade, Random, Top, Window
from .keeping import Keep
from .loader import Loader
from .merging import supervise
from .mixed import Mixed, Part
from .mixture import Collection, Mixture
from .pairs import HardMargin, MarginBins
from .passages import wanted_passages
from .policy import POLICIES, Reading, policy_table
from .query_files import read_query_ids, read_topics, write_topics
from .scores import read_scores, read_triples
from .sources import Judged, Ranking, Scored, Source, Triples
from .supervision import Supervision
from .tokens import TokenRows, TokenStore, TokenStores

__all__ = [
    "POLICIES",
    "Audit",
    "Batches",
    "ByDocument",
    "ByLength",
    "ByTopic",
    "Collection",
    "Corpus",
    "Dataset",
    "Drawn",
    "EpochPlan",
    "Group",
    "HardMargin",
    "Judged",
    "Keep",
    "Loader",
    "MarginBins",
    "Mixed",
    "Mixture",
    "OneRelevant",
    "Part",
    "PerGrade",
    "Question",
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
    "Window",
    "audit",
    "default_cache",
    "file_hash",
    "policy_table",
    "read_answers",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_query_ids",
    "read_questions",
    "read_run",
    "read_scores",
    "read_topics",
    "read_triples",
    "supervise",
    "suspected_false_negatives",
    "wanted_passages",
    "write_qrels",
    "write_retrieved",
    "write_run",
    "write_topics",
]
