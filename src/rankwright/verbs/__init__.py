"""What each verb of the command line does; every one ends by saying where its result is and what to run next."""

from .converting import convert
from .judging import evaluate
from .looking import check_gradients, doctor, export, schema, show
from .recipes import quickstart, report, run, train
from .searching import encode, index, mine, search

__all__ = [
    "check_gradients", "convert", "doctor", "encode", "evaluate", "export", "index", "mine", "quickstart", "report",
    "run", "schema", "search", "show", "train",
]  # fmt: skip
