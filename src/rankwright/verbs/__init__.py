"""What each verb of the command line does; every one ends by saying where its result is and what to run next."""

from .asking import rank
from .clustering import topics
from .converting import convert
from .importing import import_dpr
from .judging import compare, evaluate, fuse
from .looking import check_gradients, doctor, export, schema, show
from .recipes import quickstart, report, run, train
from .scoring import score
from .searching import encode, index, mine, rerank, search

__all__ = [
    "check_gradients", "compare", "convert", "doctor", "encode", "evaluate", "export", "fuse", "import_dpr", "index",
    "mine", "quickstart", "rank", "report", "rerank", "run", "schema", "score", "search", "show", "topics", "train",
]  # fmt: skip
