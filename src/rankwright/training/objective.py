"""The objective: terms of (loss, pool of documents, weight) over a score matrix, summed to one scalar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Bool, Float, Int

from ..errors import RecipeError
from ..losses import Loss
from ..recipe import Slot
from ..types import Tensor

Pool = Literal["own", "others", "batch"]


@dataclass(frozen=True)
class Term:
    """One part of the objective.

    Args:
        loss: a class exported by `rankwright.losses`, or a dotted name.
        against: ``own``: the documents of the query's own list; ``batch``: these and every other document of the
            batch, over all processes; ``others``: the query's own relevant documents against the other lists'.
        weight: factor of this term in the sum.
    """

    loss: Annotated[Loss, Slot("rankwright.losses")]
    against: Pool = "batch"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Loss):
            raise RecipeError(f"loss must be a rankwright.losses.Loss, got {type(self.loss).__name__}")


_DEFINED_AT_ONCE = 1 << 22  # (query, column) pairs


@dataclass(frozen=True)
class Pools:
    """Targets and masks of a batch over all its columns, made for a few queries at a time; no scores yet.

    A document that the source knows to be relevant to a query, but that is not in the query's list, is in no pool of
    that query: it must never count as its negative. `masked` counts these.
    """

    columns: int
    lists: Int[Tensor, "q n"]
    list_targets: Float[Tensor, "q n"]
    list_mask: Bool[Tensor, "q n"]
    known: tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]  # by row
    absent: Int[Tensor, " a"]

    @classmethod
    def build(
        cls,
        columns: int,
        *,
        lists: Int[Tensor, "q n"],
        targets: Float[Tensor, "q n"],
        mask: Bool[Tensor, "q n"],
        known: tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]],
        absent: Int[Tensor, " a"],
    ) -> Pools:
        """From the lists, the known (row, column, target) triples and the columns that repeat an earlier one."""
        order = known[0].argsort(stable=True)
        return cls(columns, lists, targets, mask, (known[0][order], known[1][order], known[2][order]), absent)

    @property
    def masked(self) -> int:
        """How many (query, column) pairs are withheld because the document is known to be relevant."""
        import torch

        row, column, target = self.known
        rows = torch.arange(len(self.lists), device=self.lists.device).unsqueeze(-1).expand_as(self.lists)
        own = (rows * self.columns + self.lists)[self.list_mask]
        pairs = (row * self.columns + column)[(target > 0) & ~torch.isin(column, self.absent)]
        return int((~torch.isin(pairs.unique(), own)).sum())

    def of(self, pool: Pool, rows: slice) -> tuple[Float[Tensor, "r m"], Bool[Tensor, "r m"]]:
        """(targets, mask) of one pool for some rows; ``own`` in list order, the others in column order."""
        import torch

        targets, mask, lists = self.list_targets[rows], self.list_mask[rows], self.lists[rows]
        if pool == "own":
            return targets, mask
        begin, end = torch.searchsorted(self.known[0], torch.tensor([rows.start, rows.stop], device=lists.device))
        row, column, target = (part[begin:end] for part in self.known)
        full = targets.new_zeros(len(lists), self.columns)
        allowed = torch.ones_like(full, dtype=torch.bool)
        full[row - rows.start, column] = target.to(full.dtype)
        allowed[row - rows.start, column] = target <= 0
        at = torch.arange(len(lists), device=lists.device).unsqueeze(-1).expand_as(lists)[mask], lists[mask]
        full[at] = targets[mask]
        allowed[at] = targets[mask] > 0 if pool == "others" else True
        allowed[:, self.absent] = False
        return full, allowed


class Objective:
    """The weighted sum of terms, each the mean over the queries on which its loss is defined."""

    def __init__(self, terms: Sequence[Term]) -> None:
        if not terms:
            raise RecipeError("an objective needs at least one term", fix="e.g. objective: [{loss: InfoNCE}]")
        self.terms = tuple(terms)

    @property
    def per_query(self) -> bool:
        """Whether rows may be handled a few at a time."""
        return all(term.loss.per_query for term in self.terms)

    def check_processes(self, world: int) -> None:
        """Whether the objective can be computed when `world` processes hold some queries each.

        Raises:
            RecipeError: a loss that is no sum over queries: the sum of its values on the parts is not its value.
        """
        for term in self.terms:
            if world > 1 and not term.loss.per_query:
                what = f"{type(term.loss).__name__} needs the whole batch in one process, there are {world}"
                raise RecipeError(what, fix="train in one process, or choose a loss that is computed query by query")

    def defined(self, pools: Pools) -> list[int]:
        """Per term: on how many of these queries it is defined (summed over processes it is the denominator)."""
        n = len(pools.lists)
        rows = max(1, _DEFINED_AT_ONCE // max(1, pools.columns))
        chunks = [slice(begin, min(begin + rows, n)) for begin in range(0, n, rows)]
        return [
            sum(int(term.loss.defined(*pools.of(term.against, chunk)).sum()) for chunk in chunks) for term in self.terms
        ]

    def __call__(
        self, scores: Float[Tensor, "r m"], pools: Pools, *, rows: slice, denominators: Sequence[int]
    ) -> Float[Tensor, ""]:
        """This chunk's share of the objective: shares of all rows and processes add up to the whole."""
        share = scores.new_zeros(())
        for term, denominator in zip(self.terms, denominators):
            targets, mask = pools.of(term.against, rows)
            part = scores.gather(1, pools.lists[rows]) if term.against == "own" else scores
            value = term.loss(part, targets.to(part.dtype), mask)
            share = share + term.weight * (value.sum() / max(denominator, 1) if term.loss.per_query else value)
        return share
