"""Language models as judges of order: endpoints asked with care, every answer kept, rankings out."""

from .budget import Budget
from .endpoint import Client, Endpoint, Reply, Unanswered
from .journal import Journal
from .listwise import ListWise, Outcome, rank_run
from .prompts import messages, spans

__all__ = [
    "Budget",
    "Client",
    "Endpoint",
    "Journal",
    "ListWise",
    "Outcome",
    "Reply",
    "Unanswered",
    "messages",
    "rank_run",
    "spans",
]
