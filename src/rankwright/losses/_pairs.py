"""Pairs within a row as tables [chosen documents, m]: one relevant document among thousands costs one line, not m."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Which = Literal["ordered", "top", "all", "first"]
Reduction = Literal["mean", "sum"]


def highest_and_lowest(
    targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"]
) -> tuple[Float[Tensor, "q 1"], Float[Tensor, "q 1"]]:
    """Highest and lowest target of each row; minus and plus infinity in a row without documents."""
    highest = targets.masked_fill(~mask, float("-inf")).amax(-1, keepdim=True)
    return highest, targets.masked_fill(~mask, float("inf")).amin(-1, keepdim=True)


def any_pair(targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"], which: Which = "ordered") -> Bool[Tensor, " q"]:
    """Rows with at least one such pair."""
    if which == "all":
        return mask.sum(-1) > 1
    if which == "first":
        return mask[:, :1].any(-1) & mask[:, 1:].any(-1)
    highest, lowest = highest_and_lowest(targets, mask)
    return (highest > lowest).squeeze(-1)


@dataclass(frozen=True)
class Pairs:
    """Chosen documents `(row, column)`, each facing the documents of its row that `counted` names."""

    queries: int
    row: Int[Tensor, " n"]
    column: Int[Tensor, " n"]
    counted: Bool[Tensor, "n m"]

    @classmethod
    def of(cls, targets: Float[Tensor, "q m"], mask: Bool[Tensor, "q m"], which: Which = "ordered") -> Pairs:
        """``ordered``: each pair of different targets once, the higher one chosen; ``top``: of these only the pairs
        with the row's highest target; ``all``: pairs of equal targets as well, each once; ``first``: the first
        document chosen against each other one.
        """
        if which == "first":
            return cls.everyone(mask & (torch.arange(mask.shape[-1], device=mask.device) == 0), mask)
        highest, lowest = highest_and_lowest(targets, mask)
        chosen = (
            mask & {"ordered": targets > lowest, "top": (targets == highest) & (targets > lowest), "all": mask}[which]
        )
        row, column = chosen.nonzero(as_tuple=True)
        own, others = targets[row, column].unsqueeze(-1), targets[row]
        counted = others < own
        if which == "all":
            places = torch.arange(targets.shape[-1], device=targets.device)
            counted = counted | ((others == own) & (places > column.unsqueeze(-1)))
        return cls(len(targets), row, column, counted & mask[row])

    @classmethod
    def everyone(cls, chosen: Bool[Tensor, "q m"], mask: Bool[Tensor, "q m"], *, itself: bool = False) -> Pairs:
        """Each chosen document against every document of its row, `itself` included or not."""
        row, column = chosen.nonzero(as_tuple=True)
        places = torch.arange(mask.shape[-1], device=mask.device)
        counted = mask[row] if itself else mask[row] & (places != column.unsqueeze(-1))
        return cls(len(mask), row, column, counted)

    def chosen(self, values: Float[Tensor, "q m"]) -> Float[Tensor, "n 1"]:
        return values[self.row, self.column].unsqueeze(-1)

    def others(self, values: Float[Tensor, "q m"]) -> Float[Tensor, "n m"]:
        return values[self.row]

    def gap(self, values: Float[Tensor, "q m"]) -> Float[Tensor, "n m"]:
        """What the chosen document has more than each other one of its row."""
        return self.chosen(values) - self.others(values)

    def by_row(self, values: Float[Tensor, " n"]) -> Float[Tensor, " q"]:
        """Sums over the chosen documents of each row."""
        return values.new_zeros(self.queries).index_add(0, self.row, values)

    def reduce(self, terms: Float[Tensor, "n m"], reduction: Reduction) -> Float[Tensor, " q"]:
        """Mean or sum of the counted terms of each row; 0 where there are none."""
        total = self.by_row(terms.masked_fill(~self.counted, 0.0).sum(-1))
        if reduction == "sum":
            return total
        return total / self.by_row(self.counted.sum(-1).to(terms.dtype)).clamp(min=1)

    def ranks(self, scores: Float[Tensor, "q m"], temperature: float) -> Float[Tensor, " n"]:
        """Smooth rank of each chosen document: 1 + the sum over the others of sigmoid((theirs - its) / T)."""
        above = torch.sigmoid(-self.gap(scores) / temperature)
        return 1 + above.masked_fill(~self.counted, 0.0).sum(-1)
