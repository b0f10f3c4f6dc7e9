"""List-wise ranking by a language model: windows slide over each query's documents; many queries at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal

from .. import signals
from ..data.permutations import read_permutation
from ..errors import RemoteError, Stopped, UsageError
from ..progress import Progress, progress, say
from ..types import Run
from .budget import Spent
from .endpoint import Client, Reply, Unanswered
from .journal import Journal, question_key
from .prompts import messages, spans

_POLL = 0.2  # seconds between looks at the signals


@dataclass(frozen=True)
class ListWise:
    """How a list is ranked (RankGPT: Sun et al., EMNLP 2023, arXiv:2304.09542).

    Args:
        window: passages of one question.
        step: how far the window moves towards the top; None: half a window.
        depth: the first so many documents of each query.
        characters: of each passage that the model sees.
        unanswered: a window without a usable answer leaves its passages in their order (``keep``), or its query out of
            the result (``drop``).
    """

    window: int = 20
    step: int | None = None
    depth: int = 100
    characters: int = 1500
    unanswered: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        if self.step is None:
            object.__setattr__(self, "step", max(1, self.window // 2))
        if not (self.step and 1 <= self.step < self.window):
            what = f"window is {self.window} and step {self.step}"
            raise UsageError(what, fix="give a window of 2 or more, and a smaller step: windows must overlap")
        if self.depth < 2 or self.characters < 1:
            what = f"depth is {self.depth} and characters {self.characters}"
            raise UsageError(what, fix="give a depth of 2 or more, and 1 character or more")


@dataclass(frozen=True)
class Outcome:
    """The ranking (scores are 1/rank) and what was counted on the way."""

    run: Run
    counts: Counter[str] = field(default_factory=Counter)
    examples: tuple[str, ...] = ()  # of unanswered windows


class _Ranker:
    """What every thread needs to rank one query."""

    def __init__(
        self, spec: ListWise, client: Client, journal: Journal, query: Callable[[str], str], doc: Callable[[str], str]
    ) -> None:
        self.spec, self.client, self.journal, self.query, self.doc = spec, client, journal, query, doc

    def rank(self, query: str, docs: list[str]) -> tuple[list[str], Counter[str], str]:
        """The documents in their new order, counts, and why a window went unanswered, if one did."""
        order, counts, why = list(docs), Counter[str](), ""
        asked = self.query(query)
        for begin, end in spans(len(order), self.spec.window, self.spec.step or 1):
            passages = [self.doc(doc) for doc in order[begin:end]]
            counts["windows"] += 1
            try:
                reply = self._reply(messages(asked, passages, characters=self.spec.characters), counts)
            except Unanswered as error:
                counts["unanswered"] += 1
                why = why or f"query {query!r}: {error.what}"
                continue
            found = read_permutation(reply.text, end - begin)
            if not found.named:
                counts["unanswered"] += 1
                why = why or f"query {query!r}: {' '.join(reply.text.split())[:80]!r}"
                continue
            counts["complete" if found.complete else "repaired"] += 1
            counts.update(repeated=found.repeated, foreign=found.foreign, missing=found.missing)
            counts["cut off"] += reply.finish == "length"
            order[begin:end] = [order[begin + place] for place in found.order]
        return order, counts, why

    def _reply(self, asked: list[dict[str, str]], counts: Counter[str]) -> Reply:
        fields = self.client.endpoint.request()
        key = question_key(fields["model"], fields, asked)
        reply = self.journal.get(key)
        if reply is not None:
            counts["known"] += 1
        else:
            reply = self.client.ask(asked)
            self.journal.add(key, reply)
            counts["asked"] += 1
            counts["tokens"] += reply.tokens
        return reply


def rank_run(
    run: Run,
    *,
    client: Client,
    journal: Journal,
    query_text: Callable[[str], str],
    doc_text: Callable[[str], str],
    spec: ListWise | None = None,
    workers: int = 4,
) -> Outcome:
    """Every query's first documents in the order that the model gives them; the rest of the run is left out.

    Queries are asked about in parallel, a query's windows one after the other. What the journal knows is not asked
    again: a run that was stopped or killed goes on where it was.

    Args:
        query_text, doc_text: the text of an id; called from several threads.
        workers: questions under way at a time.

    Raises:
        RemoteError: the endpoint cannot be used, or no query got an answer.
        Stopped: a signal came, or the budget is spent; every answer is in the journal.
    """
    spec = spec or ListWise()
    if workers < 1:
        raise UsageError(f"workers is {workers}", fix="give 1 or more")
    ranker = _Ranker(spec, client, journal, query_text, doc_text)
    lists = [(query, docs) for query, docs, _ in run.ranked(spec.depth)]
    orders: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    examples: list[str] = []
    with progress("rank", len(lists), "queries") as bar:
        for query, (order, found, why) in _each(ranker, lists, workers, bar):
            counts.update(found)
            if why and len(examples) < 3:
                examples.append(why)
            if why:
                counts["queries with an unanswered window"] += 1
            if not (why and spec.unanswered == "drop"):
                orders[query] = order
    counts["tried again"] = client.retries
    if counts["windows"] and counts["unanswered"] == counts["windows"]:
        what = f"no window got a usable answer, e.g. {examples[0]}"
        raise RemoteError(what, fix="try another --llm, or a smaller --window")
    rows = [(q, doc, 1.0 / rank) for q, _ in lists for rank, doc in enumerate(orders.get(q, ()), start=1)]
    made = Run.from_rows(*zip(*rows)) if rows else Run.from_rows([], [], [])
    return Outcome(made, counts, tuple(examples))


def _each(
    ranker: _Ranker, lists: list[tuple[str, list[str]]], workers: int, bar: Progress
) -> Iterator[tuple[str, tuple[list[str], Counter[str], str]]]:
    """(query, what `rank` gives) as they are done; stops every thread when one fails or a signal comes."""
    todo = iter(lists)
    pending: dict[Future[tuple[list[str], Counter[str], str]], str] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(workers, thread_name_prefix="rank") as pool:
        try:
            while True:
                while len(pending) < 2 * workers and (item := next(todo, None)) is not None:
                    pending[pool.submit(ranker.rank, *item)] = item[0]
                if not pending:
                    return
                done, _ = wait(pending, timeout=_POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    query = pending.pop(future)
                    yield query, future.result()
                    bar.advance(note=f"{ranker.client.budget.used['tokens']:,} tokens")
                signals.check()
        except BaseException as error:
            failure = error
            ranker.client.stop.set()
            if under_way := sum(future.running() for future in pending):
                say(f"waiting for {under_way} answers under way, which are kept")
    if isinstance(failure, Spent):
        what = f"{failure}; {bar.done:,} of {len(lists):,} queries are ranked"
        raise Stopped(what, fix="give a larger budget and run the same command again: nothing is asked twice") from None
    if failure is not None:
        raise failure
