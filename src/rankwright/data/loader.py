"""From supervision to batches: step -> Batch as a pure function, sharded by rank, prefetched by threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from ..errors import RecipeError
from ..names import picked
from ..randomness import generator
from ..types import Batch, Example, Texts
from .batches import Batches, EpochPlan
from .drawn import Drawn, endless, following
from .groups import Group
from .supervision import Supervision
from .tokens import TokenRows

_AHEAD = 2  # batches made in advance, a worker
_PLANS = 3  # epochs whose order is kept: the current one and, while prefetching or drawing, the next


class Loader:
    """Batches by step number: nothing but (seed, step) decides what a batch holds, so a run resumes anywhere at once.

    The global batch is the same for any number of processes; rank r holds a contiguous slice of its queries (slices
    may differ by one query, or be empty) and the unique documents of their lists.

    Args:
        query_rows: row in `query_tokens` of each query of `supervision` (int64 [queries]).
        doc_rows: row in `doc_tokens` of each document of `supervision` (int64 [docs]).
        pair: joins queries and documents row by row, for a ranker that reads them together. A batch's `docs` are then
            pairs, one for each place of a list, and its queries empty.
        drawn: documents of other queries that each batch holds besides its lists; None: none. The processes share them
            out. A ranker that reads pairs has none.
        workers: threads that prepare batches in advance; 0: they are made when they are asked for.

    Raises:
        RecipeError: the group needs a relevant document, and a query may be left without; or no query has a document
            of each grade that it needs.
    """

    def __init__(
        self,
        supervision: Supervision,
        *,
        group: Group,
        batches: Batches,
        query_tokens: TokenRows,
        doc_tokens: TokenRows,
        query_rows: np.ndarray,
        doc_rows: np.ndarray,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
        pair: Callable[[Texts, Texts], Texts] | None = None,
        drawn: Drawn | None = None,
    ) -> None:
        assert 0 <= rank < world, "no such rank"
        for rows, ids in ((query_rows, supervision.queries), (doc_rows, supervision.docs)):
            assert len(rows) == len(ids), "a row for each id"
            assert min(rows, default=0) >= 0, "an id without tokens"
        self.supervision, self.group, self.batches = supervision, group, batches
        self.query_tokens, self.doc_tokens = query_tokens, doc_tokens
        self.query_rows, self.doc_rows = np.asarray(query_rows), np.asarray(doc_rows)
        self.seed, self.rank, self.world, self.workers = seed, rank, world, workers
        group.check(supervision.queries, supervision.docs)
        self._pair, self._extra = pair, drawn
        usable = supervision.having(group.grades)
        self._rows, self._left_out = np.flatnonzero(usable), np.flatnonzero(~usable)
        queries = supervision.queries
        self._queries = queries if not len(self._left_out) else picked(queries, self._rows)
        if not len(self._rows):
            wanted = ", ".join(f"{grade:g}" for grade in group.grades)
            what = f"no query has documents of each of the grades {wanted}"
            raise RecipeError(what, where="group", fix="check the grades of the sources: grade, relabel, mine.grade")
        if group.needs_relevant and (unsure := len(supervision.unsure)):
            query = supervision.queries[int(supervision.unsure[0])]
            raise RecipeError(
                f"{type(group).__name__} needs a document with a target above 0 in each epoch; {unsure:,} queries may "
                f"have none to choose from, e.g. {query!r}", where="data",
                fix="draw the negatives alone by chance (keep: {random: ...} on a source of negatives)",
            )  # fmt: skip
        self._lock = threading.Lock()
        self._plans: dict[int, EpochPlan] = {}
        self._begins = [0]  # first step of each epoch that is known so far

    @property
    def queries(self) -> int:
        """How many queries are trained on."""
        return len(self._rows)

    @property
    def remarks(self) -> list[str]:
        """What a user should know of what was left out."""
        without = f"{len(self._left_out):,} queries lack a grade that the group needs, and are left out"
        remarks = [*self.supervision.remarks, *([without] if len(self._left_out) else [])]
        if self._extra is not None and self._extra.rest and not len(self._left_out):
            remarks.append("drawn.rest: the group leaves no query out, the stream gives all documents")
        return remarks

    # --- order -----------------------------------------------------------------------------------------------------

    def steps_per_epoch(self, epoch: int) -> int:
        """How many batches an epoch has; epochs may differ where queries share documents."""
        return len(self._plan(epoch))

    def position(self, step: int) -> tuple[int, int]:
        """(epoch, batch within it) of a step, both from 0."""
        with self._lock:
            while self._begins[-1] <= step:
                epoch = len(self._begins) - 1
                self._begins.append(self._begins[-1] + len(self._planned(epoch)))
            epoch = int(np.searchsorted(self._begins, step, side="right")) - 1
            return epoch, step - self._begins[epoch]

    def _plan(self, epoch: int) -> EpochPlan:
        with self._lock:
            return self._planned(epoch)

    def _planned(self, epoch: int) -> EpochPlan:
        if epoch not in self._plans:
            plan = self.batches.plan(
                self._queries,
                lambda place: self._chosen(int(self._rows[place]), epoch)[1], seed=self.seed, epoch=epoch,
            )  # fmt: skip
            plan = EpochPlan(self._rows[plan.order], plan.offsets)
            while len(self._plans) >= _PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _chosen(self, row: int, epoch: int) -> tuple[Example, list[int]]:
        """A query's list for one epoch, and its documents as columns of the supervision."""
        rows = self.supervision.rows(row, seed=self.seed, epoch=epoch)
        candidates = self.supervision.candidates(row, rows)
        example = self.group.choose(candidates, self.seed, epoch)
        column = dict(zip(candidates.docs, self.supervision.table.columns[rows].tolist()))
        return example, [column[doc] for doc in example.docs]

    # --- batches -----------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> Batch:
        """This rank's part of the batch of one step.

        `queries`, `docs` and `lists` are the rank's own (`lists` are rows of its own `docs`). `doc_ids` and
        `known_docs` are global: they run over every rank's documents, one rank after the other, so that a document
        that two ranks hold is there twice. With one process that is just its own documents. Lists are as wide as the
        longest one of the global batch.
        """
        epoch, index = self.position(step)
        rows = self._plan(epoch).batch(index)
        chosen = [self._chosen(row, epoch) for row in rows.tolist()]
        cuts = [len(rows) * r // self.world for r in range(self.world + 1)]
        width = max(len(columns) for _, columns in chosen)
        if self._pair is not None:
            return self._paired(rows, chosen, cuts, width)
        drawn = self._drawn(step, epoch, index)
        parts = [len(drawn) * r // self.world for r in range(self.world + 1)]
        docs = [_unique(chosen[a:b], drawn[c:d]) for (a, b), (c, d) in zip(pairwise(cuts), pairwise(parts))]
        own, own_docs = slice(cuts[self.rank], cuts[self.rank + 1]), docs[self.rank]
        place = {column: i for i, column in enumerate(own_docs)}
        everything = np.concatenate([np.asarray(part, np.int64) for part in docs])
        return self._laid_out(
            chosen[own], [[place[c] for c in columns] for _, columns in chosen[own]], width,
            queries=self.query_tokens.take(self.query_rows[rows[own]]),
            docs=self.doc_tokens.take(self.doc_rows[np.asarray(own_docs, np.int64)]),
            known=self.supervision.pairs(rows[own], everything),
            query_ids=tuple(picked(self.supervision.queries, rows[own])),
            doc_ids=tuple(picked(self.supervision.docs, everything)),
            drawn=tuple(picked(self.supervision.docs, np.asarray(drawn, np.int64))),
        )  # fmt: skip

    def _drawn(self, step: int, epoch: int, index: int) -> list[int]:
        """The documents drawn for all queries of a batch, each once, as columns of the supervision."""
        if self._extra is None:
            return []
        ahead, rest = self._extra.shares(len(self._rows), len(self._left_out))
        end = int(self._plan(epoch).offsets[index + 1])
        rows = following(lambda number: self._plan(number).order, epoch, end, ahead)
        others = endless(len(self._left_out), step * rest, rest, seed=self.seed) if rest else []
        rows += [(int(self._left_out[place]), turn) for place, turn in others]
        columns = [self._one_of(row, turn, step) for row, turn in rows]
        return list(dict.fromkeys(columns))

    def _one_of(self, row: int, turn: int, step: int) -> int:
        """A document of a query that is above 0 for it, or any where none is: the step's draw."""
        table = self.supervision.table
        span = slice(*table.offsets[row : row + 2].tolist())
        columns = table.columns[span]
        above = columns[table.values[span] > 0]
        columns = above if len(above) else columns
        return int(columns[generator(self.seed, "drawn", step, turn, table.queries[row]).integers(len(columns))])

    def _paired(self, rows: np.ndarray, chosen: list[tuple[Example, list[int]]], cuts: list[int], width: int) -> Batch:
        """Of pairs: each place of a list is a text of its own, and what else the source knows is in no batch."""
        import torch

        assert self._pair is not None
        sizes = np.array([len(columns) for _, columns in chosen], np.int64)
        query, doc = np.repeat(rows, sizes), np.array([c for _, columns in chosen for c in columns], np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        own = slice(cuts[self.rank], cuts[self.rank + 1])
        first, last = int(starts[own.start]), int(starts[own.stop])
        nothing = np.zeros(0, np.int64)
        return self._laid_out(
            chosen[own], [range(starts[i] - first, starts[i + 1] - first) for i in range(own.start, own.stop)], width,
            queries=Texts(torch.zeros(0, dtype=torch.int64), torch.zeros(own.stop - own.start + 1, dtype=torch.int64)),
            docs=self._pair(
                self.query_tokens.take(self.query_rows[query[first:last]]),
                self.doc_tokens.take(self.doc_rows[doc[first:last]]),
            ),
            known=(nothing, nothing, np.zeros(0)),
            query_ids=tuple(picked(self.supervision.queries, rows[own])),
            doc_ids=tuple(picked(self.supervision.docs, doc)),
            pair_queries=tuple(picked(self.supervision.queries, query)),
        )  # fmt: skip

    def _laid_out(
        self,
        chosen: list[tuple[Example, list[int]]],
        places: Sequence[Sequence[int]],
        width: int,
        *,
        queries: Texts,
        docs: Texts,
        known: tuple[np.ndarray, np.ndarray, np.ndarray],
        query_ids: tuple[str, ...],
        doc_ids: tuple[str, ...],
        pair_queries: tuple[str, ...] | None = None,
        drawn: tuple[str, ...] = (),
    ) -> Batch:
        """Lists side by side, `width` wide, their documents at the given places of `docs`."""
        import torch

        lists = np.zeros((len(chosen), width), np.int64)
        targets, mask = np.zeros(lists.shape, np.float32), np.zeros(lists.shape, bool)
        for i, (example, columns) in enumerate(chosen):
            n = len(columns)
            lists[i, :n], targets[i, :n], mask[i, :n] = places[i], example.targets, True
        return Batch(
            queries, docs, torch.from_numpy(lists), torch.from_numpy(targets), torch.from_numpy(mask),
            known_queries=torch.from_numpy(known[0]),
            known_docs=torch.from_numpy(known[1]),
            known_targets=torch.from_numpy(known[2].astype(np.float32)),
            query_ids=query_ids,
            doc_ids=doc_ids,
            pair_queries=pair_queries,
            drawn=drawn,
        )  # fmt: skip

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps from `start` up to, not including, `stop`; the same for any number of workers.

        What goes wrong in a worker is raised here, when its batch is due.
        """
        if self.workers == 0:
            yield from (self.batch(step) for step in range(start, stop))
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        steps, waiting = iter(range(start, stop)), deque[Future[Batch]]()
        try:
            for step in steps:
                waiting.append(pool.submit(self.batch, step))
                if len(waiting) >= self.workers * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _unique(chosen: list[tuple[Example, list[int]]], drawn: list[int]) -> list[int]:
    """The documents of some lists and of those drawn, each once, in order of first appearance."""
    return list(dict.fromkeys([*(column for _, columns in chosen for column in columns), *drawn]))
