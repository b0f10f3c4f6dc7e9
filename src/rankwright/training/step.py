"""One optimizer step's gradient, for any ranker and any objective, in memory that the batch does not set.

The texts of a batch are cut into micro-batches by length. Each is represented without a graph (as many as the graph
budget allows keep theirs), the objective is differentiated with respect to the representations, and the graph-less
are represented again, under the same dropout, to carry those gradients on (gradient caching, Gao et al. 2021,
arXiv:2101.06983). Loss and gradient are those of the whole batch; the budgets change memory and time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar, cast

import torch
from jaxtyping import Float, Int

from ..errors import ResourceError
from ..randomness import key
from ..types import Batch, Reps, Side, Tensor, Texts
from . import distributed
from .memory import Memory
from .micro import Assembly, Micro, micro_batches
from .objective import Objective
from .pools import Pools
from .widths import scores_at

_Result = TypeVar("_Result")
_Taught = tuple[Float[Tensor, "q m"] | None, ...]  # per loss: its teacher's scores


class StepRanker(Protocol):
    """What the step needs of a ranker (`rankwright.models.Ranker` has it)."""

    @property
    def packed(self) -> bool: ...
    @property
    def normalised(self) -> bool | None: ...
    def represent(self, texts: Texts, side: Side) -> Reps: ...
    def compare(self, queries: Reps, docs: Reps) -> Float[Tensor, "q m"]: ...
    def parameters(self) -> Any: ...


class DividedRanker(StepRanker, Protocol):
    """And of one that is divided among the processes (`sharding.Sharded`): its passes are collectives."""

    def sum_after_next_backward(self, on: bool) -> None: ...


@dataclass(frozen=True)
class StepResult:
    """What a step did: the objective's value, and counts over all processes."""

    loss: float
    queries: int
    texts: int
    tokens: int
    masked: int
    missing: int = 0  # pairs that do not count, because a teacher has no score for them


def record_of(
    step: int, loss: float, norm: float, rate: float, results: Sequence[StepResult], seconds: float
) -> dict[str, Any]:
    """What the log keeps of one optimizer step: counts are summed over its batches."""
    names = [field.name for field in fields(StepResult) if field.name != "loss"]
    counts = {name: sum(getattr(result, name) for result in results) for name in names}
    record = {"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate}
    return {**record, **counts, "seconds": round(seconds, 4)}


def dropout_keys(ids: tuple[str, ...], side: Side, *, seed: int, step: int) -> Int[Tensor, " rows"]:
    """One key a text, from (seed, step, side, id): the mask is the text's, whatever carries it."""
    return torch.tensor([key(seed, "dropout", step, side, name) for name in ids], dtype=torch.int64)


class Step:
    """Computes gradients for one batch; holds the budgets, which shrink when memory runs out.

    Args:
        autocast: context factory for `represent` (bf16/fp16 on CUDA); scores and losses stay in float32.
        divided: the ranker is divided among the processes: all go through the same number of micro-batches, and when
            memory runs out there is no second try, because the others already wait in the middle of the first.

    Raises:
        RecipeError: a loss that needs the whole batch, while several processes share it.
    """

    def __init__(
        self,
        ranker: StepRanker,
        objective: Objective,
        *,
        memory: Memory | None = None,
        seed: int = 0,
        autocast: Callable[[], Any] = nullcontext,
        device: str = "cpu",
        divided: bool = False,
    ) -> None:
        objective.check_processes(distributed.world())
        self.ranker, self.objective, self.memory = ranker, objective, memory or Memory()
        self.seed, self.autocast, self.device = seed, autocast, device
        self.divided = cast("DividedRanker", ranker) if divided else None
        self._examples: dict[str, Texts] = {}

    def __call__(self, batch: Batch, *, step: int, weight: float = 1.0, last: bool = True) -> StepResult:
        """Add ``weight * gradient`` of the objective to every parameter's ``.grad`` (summed over processes by the
        caller, once per optimizer step: `distributed.sum_gradients`).

        Args:
            last: of the batches of an optimizer step; a divided ranker's gradients are summed here, behind the last.

        Raises:
            ResourceError: out of memory with a single text in a micro-batch.
        """
        # a failed attempt leaves parts of its gradient behind: what earlier batches added is kept aside
        before = [] if self.divided else [None if p.grad is None else p.grad.clone() for p in self.ranker.parameters()]
        while True:
            result = self._tried(batch, step, weight, last)
            if result is not None:
                return result
            if self.divided:
                fix = "lower micro_batch_tokens or graph_tokens"
                raise ResourceError("out of memory, and a divided model cannot try again", fix=fix)
            for parameter, grad in zip(self.ranker.parameters(), before):
                parameter.grad = None if grad is None else grad.clone()
            if self.memory.tokens < 16 and not self.memory.graph_tokens:
                raise ResourceError("out of memory with one text in a micro-batch", fix="shorten the texts")
            self.memory = self.memory.halved()

    def _tried(self, batch: Batch, step: int, weight: float, last: bool) -> StepResult | None:
        """None when memory ran out: the failed attempt's tensors, which an exception's traceback keeps, are gone."""
        try:
            return self._attempt(batch, step, weight, last)
        except _OutOfMemory:
            return None

    # --- the four phases --------------------------------------------------------------------------

    def _attempt(self, batch: Batch, step: int, weight: float, last: bool) -> StepResult:
        first_doc = _first_doc(batch)
        taught = self.objective.taught(batch, first_doc=first_doc)  # at a second try teachers remember
        own_docs = batch.doc_names[first_doc : first_doc + len(batch.docs)]
        sides: dict[Side, Texts] = {
            "query": batch.queries.with_keys(dropout_keys(batch.query_ids, "query", seed=self.seed, step=step)),
            "doc": batch.docs.with_keys(dropout_keys(own_docs, "doc", seed=self.seed, step=step)),
        }
        sides = {side: texts.to(self.device) for side, texts in sides.items()}
        packed = self.ranker.packed
        cuts = [
            cut
            for side, texts in sides.items()
            for cut in micro_batches(texts, side, budget=self.memory.tokens, packed=packed)
        ]
        cuts.sort(key=lambda m: -m.cost)
        kept = self._kept(cuts)
        agree = self.divided is None
        if self.divided:
            cuts, kept = self._aligned(sides, cuts, kept)
        leaves, graphs = _together(lambda: self._represent_all(sides, cuts, kept), agree=agree)
        loss, *dropped = self._differentiate(batch, taught, leaves, weight)
        _together(lambda: self._carry_on(sides, cuts, graphs, leaves, last), agree=agree)
        tokens = sum(len(texts.values) for texts in sides.values())
        counts = [len(batch.queries), len(batch.queries) + len(batch.docs), tokens, *dropped]
        return StepResult(loss, *distributed.total(torch.tensor(counts, device=self.device)).tolist())

    def _represent_all(
        self, sides: dict[Side, Texts], cuts: list[Micro], kept: set[int]
    ) -> tuple[dict[Side, Reps], dict[int, Float[Tensor, "r t d"]]]:
        """Leaf representations of every text, and the graphs that were kept."""
        graphs: dict[int, Float[Tensor, "r t d"]] = {}
        gathered: dict[Side, Assembly] = {side: Assembly(len(texts)) for side, texts in sides.items()}
        for i in sorted(range(len(cuts)), key=lambda i: i in kept):  # graph-less first: peak memory stays flat
            with nullcontext() if i in kept else torch.no_grad():
                reps = self._represent(sides, cuts[i])
            if i in kept:
                graphs[i] = reps.values
            gathered[cuts[i].side].add(cuts[i], reps)
        for side, own in gathered.items():
            if own.empty:  # a process without queries still knows how wide and how precise vectors are
                nothing = Micro(side, torch.zeros(0, dtype=torch.int64), 0)
                with torch.no_grad():
                    own.add(nothing, self._represent(sides, nothing))
        return {side: own.leaf() for side, own in gathered.items()}, graphs

    def _carry_on(
        self,
        sides: dict[Side, Texts],
        cuts: list[Micro],
        graphs: dict[int, Float[Tensor, "r t d"]],
        leaves: dict[Side, Reps],
        last: bool,
    ) -> None:
        """Backpropagate the representations' gradients into the parameters, micro-batch by micro-batch."""
        order = sorted(range(len(cuts)), key=lambda i: i not in graphs)  # kept graphs first: it frees them
        for i in order:
            if self.divided:
                self.divided.sum_after_next_backward(last and i == order[-1])
            values = graphs.pop(i) if i in graphs else self._represent(sides, cuts[i]).values
            grad = leaves[cuts[i].side].values.grad
            assert grad is not None
            if values.requires_grad:
                rows = cuts[i].rows.to(grad.device)
                values[: len(rows)].backward(grad[rows, : values.shape[1]].to(values.dtype))

    def _kept(self, cuts: list[Micro]) -> set[int]:
        """The micro-batches that keep their graphs: the most expensive first, as many as the budget holds."""
        kept, budget = set(), self.memory.graph_tokens
        for i, micro in enumerate(cuts):
            if micro.cost <= budget:
                kept.add(i)
                budget -= micro.cost
        return kept

    def _aligned(self, sides: dict[Side, Texts], cuts: list[Micro], kept: set[int]) -> tuple[list[Micro], set[int]]:
        """The same number of micro-batches a side on every process, in one order; what all can keep is kept.

        A process with fewer goes through dummies: a text of the batch, whose gradient is 0.
        """
        own = {side: [i for i, cut in enumerate(cuts) if cut.side == side] for side in sides}
        facts = distributed.gather_objects([[[i in kept for i in own[side]], _shortest(sides[side])] for side in sides])
        aligned, keeping = [], set()
        for at, side in enumerate(sides):
            keeps = [fact[at][0] for fact in facts]
            text = torch.tensor(next((fact[at][1] for fact in facts if fact[at][1]), []), dtype=torch.int64)
            offsets, key = torch.tensor([0, len(text)]), torch.zeros(1, dtype=torch.int64)
            self._examples[side] = Texts(text, offsets, key).to(self.device)
            for place in range(max(map(len, keeps))):
                if all(keep[place] for keep in keeps if place < len(keep)):
                    keeping.add(len(aligned))
                there = place < len(own[side])
                aligned.append(cuts[own[side][place]] if there else Micro(side, torch.zeros(0, dtype=torch.int64), 0))
        return aligned, keeping

    def _represent(self, sides: dict[Side, Texts], micro: Micro) -> Reps:
        dummy = self.divided is not None and len(micro.rows) == 0
        texts = self._examples[micro.side] if dummy else sides[micro.side].take(micro.rows)
        with self.autocast():
            return self.ranker.represent(texts, micro.side)

    def _differentiate(
        self, batch: Batch, taught: _Taught, leaves: dict[Side, Reps], weight: float
    ) -> tuple[float, int, int]:
        """Objective and its gradient with respect to this process's representations, in float32 or float64.

        Returns:
            (value, pairs masked, pairs that a teacher has no score for)
        """
        queries, own = leaves["query"], leaves["doc"]
        docs, counts = _gather(own)
        lists, absent, drawn = _columns(batch, counts)
        known = (batch.known_queries, batch.known_docs, batch.known_targets)
        device = queries.values.device
        pools = Pools.build(
            len(docs.values), lists=lists.to(device), targets=batch.targets.to(device), mask=batch.mask.to(device),
            known=(known[0].to(device), known[1].to(device), known[2].to(device)), absent=absent.to(device),
            taught=tuple(None if told is None else told.to(device, queries.values.dtype) for told in taught),
            drawn=drawn.to(device),
        )  # fmt: skip
        defined = self.objective.defined(pools)
        denominators = distributed.total(torch.tensor(defined, device=device)).tolist() if defined else []
        total = _together(lambda: self._score(queries, docs, pools, denominators, weight))
        if self.objective.regularised:
            everyone, shares = _gather(queries)
            total = total + _together(lambda: self._regularise(everyone, docs, pools.absent, weight))
            _hand_back(everyone, queries, shares)
        _grad(queries)
        _hand_back(docs, own, counts)
        return float(distributed.total(total)), pools.masked, self.objective.missing(pools)

    def _score(
        self, queries: Reps, docs: Reps, pools: Pools, denominators: list[int], weight: float
    ) -> Float[Tensor, ""]:
        """This process's share of the objective, differentiated a few queries at a time."""
        total = queries.values.new_zeros(())
        n = len(queries.values)
        widths = self.objective.widths
        rows = self.memory.rows or max(1, self.memory.scores // max(1, len(docs.values) * len(widths)))
        rows = rows if self.objective.per_query else max(n, 1)
        for begin in range(0, n if widths else 0, rows):
            chunk = slice(begin, min(begin + rows, n))
            scores = scores_at(self.ranker, Reps(queries.values[chunk], queries.mask[chunk]), docs, widths)
            share = self.objective(scores, pools, rows=chunk, denominators=denominators)
            if share.requires_grad:
                (share * weight).backward()
            total += share.detach()
            del scores, share  # else two chunks' scores are alive at once
        return total.detach()

    def _regularise(self, queries: Reps, docs: Reps, absent: Int[Tensor, " a"], weight: float) -> Float[Tensor, ""]:
        """The regularisers, which see every process's vectors at once: the first process computes them for all."""
        if distributed.rank():
            return queries.values.new_zeros(())
        once = torch.ones(len(docs.values), dtype=torch.bool, device=absent.device)
        once[absent] = False
        penalty = self.objective.penalty(queries, Reps(docs.values[once], docs.mask[once]))
        if penalty.requires_grad:
            (penalty * weight).backward()
        return penalty.detach()


# --- helpers ----------------------------------------------------------------------------------


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


class _OutOfMemory(Exception):
    """Memory ran out on some process; all of them clear their gradients and try again with smaller micro-batches."""


def _first_doc(batch: Batch) -> int:
    """The place of this process's first document among those of all."""
    if distributed.world() == 1:
        return 0
    return sum(int(count) for count in distributed.gather_objects(len(batch.docs))[: distributed.rank()])


def _shortest(texts: Texts) -> list[int]:
    """The tokens of the shortest text; none of no texts."""
    return texts.take(texts.lengths.argmin()[None]).values.tolist() if len(texts) else []


def _together(work: Callable[[], _Result], *, agree: bool = True) -> _Result:
    """Do the work; when memory runs out on any process, raise `_OutOfMemory` on all of them, or on that one alone."""
    result, failed = None, False
    try:
        result = work()
    except (MemoryError, RuntimeError) as error:
        message = str(error).lower()
        failed = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(m in message for m in _OUT_OF_MEMORY)
        if not failed:
            raise
    if distributed.any_rank(failed) if agree else failed:
        raise _OutOfMemory
    return cast("_Result", result)


def _gather(own: Reps) -> tuple[Reps, list[int]]:
    """Every process's rows, in rank order, as a leaf; the own ones unchanged when there is one process."""
    if distributed.world() == 1:
        return own, [len(own.values)]
    t = max(int(x) for x in distributed.gather_objects(own.values.shape[1]))
    padded = torch.nn.functional.pad(own.values.detach(), (0, 0, 0, t - own.values.shape[1]))
    mask = torch.nn.functional.pad(own.mask, (0, t - own.mask.shape[1]))
    values = distributed.gather_rows(padded)
    masks = distributed.gather_rows(mask.to(torch.uint8))
    everyone = Reps(torch.cat(values).requires_grad_(), torch.cat(masks).bool())
    return everyone, [len(v) for v in values]


def _grad(leaf: Reps) -> Float[Tensor, "rows t dim"]:
    """The gradient of a leaf, made of zeros where nothing depends on it."""
    if leaf.values.grad is None:
        leaf.values.grad = torch.zeros_like(leaf.values)
    return leaf.values.grad


def _hand_back(everyone: Reps, own: Reps, counts: list[int]) -> None:
    """Add to the own rows' gradient what all processes' gradients of them sum to."""
    grad, whole = _grad(own), _grad(everyone)
    if everyone is not own:
        grad += distributed.own_rows_of_sum(whole, counts)[:, : grad.shape[1]]


def _columns(
    batch: Batch, counts: list[int]
) -> tuple[Int[Tensor, "q n"], Int[Tensor, " absent"], Int[Tensor, " drawn"]]:
    """Lists as columns of the gathered documents, the columns that repeat a document of an earlier rank, the drawn."""
    first: dict[str, int] = {}
    canonical = torch.tensor([first.setdefault(name, i) for i, name in enumerate(batch.doc_names)], dtype=torch.int64)
    absent = (canonical != torch.arange(len(canonical))).nonzero().squeeze(-1)
    lists = canonical[batch.lists + sum(counts[: distributed.rank()])] if len(canonical) else batch.lists
    return lists, absent, torch.tensor([first[name] for name in batch.drawn], dtype=torch.int64)
