"""The objective: terms of (loss, pool of documents, weight) over a score matrix, summed to one scalar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

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

    loss: Annotated[Any, Slot("rankwright.losses")]
    against: Pool = "batch"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Loss):
            raise RecipeError(f"loss must be a rankwright.losses.Loss, got {type(self.loss).__name__}")


@dataclass(frozen=True)
class Pools:
    """Targets and masks of a batch over all its columns; no scores yet.

    A document that the source knows to be relevant to a query, but that is not in the query's list, is in no pool of
    that query: it must never count as its negative. `masked` counts these.
    """

    lists: Int[Tensor, "q n"]
    list_targets: Float[Tensor, "q n"]
    list_mask: Bool[Tensor, "q n"]
    targets: Float[Tensor, "q m"]
    own: Bool[Tensor, "q m"]
    allowed: Bool[Tensor, "q m"]
    masked: int

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
        import torch

        rows = torch.arange(len(lists), device=lists.device).unsqueeze(-1).expand_as(lists)[mask]
        own = torch.zeros(len(lists), columns, dtype=torch.bool, device=lists.device)
        own[rows, lists[mask]] = True
        full = torch.zeros(len(lists), columns, dtype=targets.dtype, device=lists.device)
        full[known[0], known[1]] = known[2].to(full.dtype)
        withheld = (full > 0) & ~own
        full[rows, lists[mask]] = targets[mask]
        allowed = ~withheld
        allowed[:, absent] = False
        withheld[:, absent] = False
        return cls(lists, targets, mask, full, own, allowed, int(withheld.sum()))

    def of(self, pool: Pool, rows: slice) -> tuple[Float[Tensor, "r m"], Bool[Tensor, "r m"]]:
        """(targets, mask) of one pool for some rows; ``own`` in list order, the others in column order."""
        if pool == "own":
            return self.list_targets[rows], self.list_mask[rows]
        mask = self.allowed[rows]
        if pool == "others":
            mask = mask & (~self.own[rows] | (self.targets[rows] > 0))
        return self.targets[rows], mask


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
        everything = slice(0, len(pools.lists))
        return [int(term.loss.defined(*pools.of(term.against, everything)).sum()) for term in self.terms]

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
