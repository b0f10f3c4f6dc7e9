"""Pools: which documents a query is compared with, their targets, and what must not count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int

from ..types import Tensor
from .strata import Strata

Pool = Literal["own", "others", "batch", "drawn"]


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
    taught: tuple[Float[Tensor, "q m"] | None, ...] = ()  # per loss: a teacher's scores, NaN where it has none
    drawn: Int[Tensor, " d"] | None = None

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
        taught: tuple[Float[Tensor, "q m"] | None, ...] = (),
        drawn: Int[Tensor, " d"] | None = None,
    ) -> Pools:
        """From the lists, the known (row, column, target) triples and the columns that repeat an earlier one.

        Args:
            drawn: the columns that were drawn for all queries.
        """
        order = known[0].argsort(stable=True)
        known = known[0][order], known[1][order], known[2][order]
        return cls(columns, lists, targets, mask, known, absent, taught, drawn)

    @property
    def masked(self) -> int:
        """How many (query, column) pairs are withheld because the document is known to be relevant."""
        import torch

        row, column, target = self.known
        rows = torch.arange(len(self.lists), device=self.lists.device).unsqueeze(-1).expand_as(self.lists)
        own = (rows * self.columns + self.lists)[self.list_mask]
        pairs = (row * self.columns + column)[(target > 0) & ~torch.isin(column, self.absent)]
        return int((~torch.isin(pairs.unique(), own)).sum())

    def of(
        self,
        pool: Pool,
        rows: slice,
        *,
        anchored: bool = False,
        taught: int | None = None,
        strata: Strata | None = None,
    ) -> tuple[Float[Tensor, "r m"], Bool[Tensor, "r m"]]:
        """(targets, mask) of one pool for some rows; ``own`` in list order, the others in column order.

        Args:
            anchored: the first column of ``others`` and ``batch`` is the list's first document once more, and counts
                only there; in ``others`` no other document of the list counts then.
            taught: the loss whose teacher's scores are the targets; None: the source's.
            strata: which of the pool count, and as what (1 relevant, 0 not); None: all, by their targets.
        """
        targets, mask = self._laid_out(pool, rows, anchored=anchored, taught=taught, strata=strata)
        if taught is None:
            return targets, mask
        return targets.nan_to_num(0.0), mask & ~targets.isnan()

    def missing(self, pool: Pool, rows: slice, *, anchored: bool, taught: int, strata: Strata | None = None) -> int:
        """How many pairs of the pool the teacher has no score for."""
        targets, mask = self._laid_out(pool, rows, anchored=anchored, taught=taught, strata=strata)
        return int((mask & targets.isnan()).sum())

    def arranged(
        self, scores: Float[Tensor, "r m"], pool: Pool, rows: slice, *, anchored: bool
    ) -> Float[Tensor, "r n"]:
        """Scores of all columns as `of` lays out its targets."""
        if pool == "own":
            return scores.gather(1, self.lists[rows])
        return _with_first(scores, self.lists[rows]) if anchored else scores

    def _laid_out(
        self, pool: Pool, rows: slice, *, anchored: bool, taught: int | None, strata: Strata | None
    ) -> tuple[Float[Tensor, "r m"], Bool[Tensor, "r m"]]:
        import torch

        targets, mask, lists = self.list_targets[rows], self.list_mask[rows], self.lists[rows]
        told = None if taught is None else self.taught[taught]
        told = None if told is None else told[rows]
        if pool == "own":
            if strata is not None:
                mask = mask & (strata.relevant(targets) | strata.negative(targets))
                targets = strata.relevant(targets).to(targets.dtype)
            return targets if told is None else told.gather(1, lists), mask
        full, allowed = self._columns(pool, rows, anchored=anchored, strata=strata)
        full = full if told is None else told
        if anchored:
            first, counts = lists[:, :1], mask[:, :1]
            allowed.scatter_(1, first, allowed.gather(1, first) & ~counts)
            if strata is not None:
                counts = counts & (strata.relevant(targets[:, :1]) | strata.negative(targets[:, :1]))
            full, allowed = _with_first(full, lists), torch.cat([counts, allowed], 1)
        return full, allowed

    def _columns(
        self, pool: Pool, rows: slice, *, anchored: bool, strata: Strata | None
    ) -> tuple[Float[Tensor, "r m"], Bool[Tensor, "r m"]]:
        """(targets, mask) over all columns: first what is known of them, then the own lists."""
        import torch

        targets, mask, lists = self.list_targets[rows], self.list_mask[rows], self.lists[rows]
        begin, end = torch.searchsorted(self.known[0], torch.tensor([rows.start, rows.stop], device=lists.device))
        row, column, target = (part[begin:end] for part in self.known)
        full = targets.new_zeros(len(lists), self.columns)
        full[row - rows.start, column] = target.to(full.dtype)
        if strata is not None:
            allowed = strata.negative(full)
        else:
            allowed = torch.ones_like(full, dtype=torch.bool)
            allowed[row - rows.start, column] = target <= 0
        if pool == "drawn":
            among = torch.zeros(self.columns, dtype=torch.bool, device=lists.device)
            among[self.drawn if self.drawn is not None else []] = True
            allowed &= among
        at = torch.arange(len(lists), device=lists.device).unsqueeze(-1).expand_as(lists)[mask], lists[mask]
        listed = targets[mask]
        full[at] = listed
        if strata is not None:
            allowed[at] = strata.relevant(listed) | (strata.negative(listed) & (pool != "others"))
        else:
            allowed[at] = (listed > 0) & (not anchored) if pool == "others" else True
        allowed[:, self.absent] = False
        return full if strata is None else strata.relevant(full).to(full.dtype), allowed


def _with_first(values: Float[Tensor, "r m"], lists: Int[Tensor, "r n"]) -> Float[Tensor, "r m1"]:
    """Each row's columns, behind that of its list's first document."""
    import torch

    return torch.cat([values.gather(1, lists[:, :1]), values], 1)
