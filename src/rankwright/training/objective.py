"""The objective: a weighted sum of losses over pools of scored documents and of regularisers of representations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import RecipeError
from ..losses import Loss, MarginMSE, Regulariser
from ..models.specification import Model
from ..recipe import Slot
from ..types import Batch, Reps, Tensor
from .pools import Pool, Pools
from .strata import Strata
from .teachers import Teacher

Taught = Annotated[Model, Slot("rankwright.models")] | str  # a ranker that scores, or a file of its scores


@dataclass(frozen=True)
class Term:
    """One part of the objective: a loss over scores, or a regulariser of representations.

    Args:
        loss: a class exported by `rankwright.losses`, or a dotted name.
        against: ``own``: the documents of the query's own list; ``batch``: these and every other document of the
            batch, over all processes; ``others``: the query's own relevant documents against the other lists';
            ``drawn``: the own list and the documents that the stage draws for all queries (`Drawn`).
        strata: which grades of the pool are contrasted; null: what is above 0 with what is not.
        weight: factor of this term in the sum.
        dims: Matryoshka (arXiv:2205.13147): the sum of the loss over scores of vectors that are cut to so many
            dimensions, and made length 1 again where the ranker's are. None given: whole vectors.
        dims_weights: a factor for each of `dims`; none given: 1 each.
        regulariser: instead of a loss; it takes no notice of `against` and `dims`.
        teacher: whose scores of the pool's pairs are the targets in place of the source's: a model, or the file of
            a TREC run (pairs that it lacks do not count); several: their mean. Null: the source's targets.
    """

    loss: Annotated[Loss, Slot("rankwright.losses")] | None = None
    against: Pool = "batch"
    weight: float = 1.0
    dims: tuple[int, ...] = ()
    dims_weights: tuple[float, ...] = ()
    regulariser: Annotated[Regulariser, Slot("rankwright.losses")] | None = None
    teacher: Taught | tuple[Taught, ...] | None = None
    strata: Strata | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "dims_weights", tuple(self.dims_weights))
        if isinstance(self.teacher, list):
            object.__setattr__(self, "teacher", tuple(self.teacher))
        if self.loss is not None and not isinstance(self.loss, Loss):
            raise RecipeError(f"loss must be a rankwright.losses.Loss, got {type(self.loss).__name__}")
        if (self.loss is None) == (self.regulariser is None):
            raise RecipeError("a term is either a loss or a regulariser", fix="e.g. {loss: InfoNCE}")
        if self.loss is None and (self.dims or self.taught_by or self.strata):
            raise RecipeError("a regulariser takes no dims, no teacher and no strata", fix="leave them out")
        if self.teacher == () or not all(spec and isinstance(spec, str | Model) for spec in self.taught_by):
            what = f"the teacher is {self.teacher!r:.80}"
            raise RecipeError(what, fix="name a model or a file of scores, or several, or leave it out")
        if self.taught_by and self.against == "others" and isinstance(self.loss, MarginMSE) and not self.loss.anchored:
            what = "MarginMSE against others with a teacher would also compare other queries' documents with each other"
            raise RecipeError(what, fix="loss: {MarginMSE: {pairs: first}}: the query's own document against each")
        if min(self.dims, default=1) < 1 or len(set(self.dims)) < len(self.dims):
            raise RecipeError(f"dims are {list(self.dims)}", fix="give different numbers of 1 or more")
        if self.dims_weights and len(self.dims_weights) != len(self.dims):
            raise RecipeError(f"{len(self.dims_weights)} dims_weights for {len(self.dims)} dims")
        if not all(0 < weight < math.inf for weight in self.dims_weights):
            raise RecipeError(f"dims_weights are {list(self.dims_weights)}", fix="give numbers above 0")

    @property
    def taught_by(self) -> tuple[Model | str, ...]:
        """The teachers whose mean score is the target; none: the source's targets."""
        if self.teacher is None:
            return ()
        return self.teacher if isinstance(self.teacher, tuple) else (self.teacher,)

    @property
    def widths(self) -> dict[int | None, float]:
        """How many dimensions scores are made of (None: all there are) -> its factor."""
        return dict(zip(self.dims, self.dims_weights or [1.0] * len(self.dims))) if self.dims else {None: 1.0}


_AT_ONCE = 1 << 22  # (query, column) pairs


class Objective:
    """The weighted sum of terms; a loss counts as its mean over the queries on which it is defined."""

    def __init__(self, terms: Sequence[Term], teachers: Sequence[Teacher | None] = ()) -> None:
        """`teachers`: one for each term that names one, None for the others; none given: no term does."""
        if not terms:
            raise RecipeError("an objective needs at least one term", fix="e.g. objective: [{loss: InfoNCE}]")
        self.terms, teachers = tuple(terms), teachers or [None] * len(terms)
        assert [bool(term.taught_by) for term in self.terms] == [teacher is not None for teacher in teachers]
        self._teachers = [teacher for term, teacher in zip(self.terms, teachers) if term.loss is not None]
        self._losses = [(term.loss, term) for term in self.terms if term.loss is not None]
        self._regularisers = [(term.regulariser, term.weight) for term in self.terms if term.regulariser is not None]

    @property
    def per_query(self) -> bool:
        """Whether rows of scores may be handled a few at a time."""
        return all(loss.per_query for loss, _ in self._losses)

    @property
    def regularised(self) -> bool:
        """Whether `penalty` is anything but 0."""
        return bool(self._regularisers)

    @property
    def widths(self) -> list[int | None]:
        """The numbers of dimensions at which scores are wanted; None: all there are."""
        return list(dict.fromkeys(width for _, term in self._losses for width in term.widths))

    def check_processes(self, world: int) -> None:
        """Whether the objective can be computed when `world` processes hold some queries each.

        Raises:
            RecipeError: a loss that is no sum over queries: the sum of its values on the parts is not its value.
        """
        for loss, _ in self._losses:
            if world > 1 and not loss.per_query:
                what = f"{type(loss).__name__} needs the whole batch in one process, there are {world}"
                raise RecipeError(what, fix="train in one process, or choose a loss that is computed query by query")

    def defined(self, pools: Pools) -> list[int]:
        """Per loss: on how many of these queries it is defined (summed over processes it is the denominator)."""
        return [
            sum(int(loss.defined(*self._pool(pools, at, chunk)).sum()) for chunk in _chunks(pools))
            for at, (loss, _) in enumerate(self._losses)
        ]

    def taught(self, batch: Batch, *, first_doc: int = 0) -> tuple[Float[Tensor, "q m"] | None, ...]:
        """Per loss: its teacher's scores of the batch's queries and documents, NaN where it has none.

        Args:
            first_doc: place in ``batch.doc_ids`` of this process's first document.
        """
        import torch

        told: list[Float[Tensor, "q m"] | None] = [None] * len(self._losses)
        place: dict[str, int] = {}  # a document that several processes or pairs hold is asked about once
        column = np.array([place.setdefault(name, len(place)) for name in batch.doc_ids], np.int64)
        for at, teacher in enumerate(self._teachers):
            if teacher is not None:
                own = self._losses[at][1].against == "own"
                wanted = _listed(batch, column[first_doc:], len(place)) if own else None
                scores = teacher.score(batch.query_ids, list(place), wanted=wanted)
                told[at] = torch.from_numpy(scores[:, column])
        return tuple(told)

    def missing(self, pools: Pools) -> int:
        """How many pairs do not count because a teacher has no score for them."""
        return sum(
            pools.missing(term.against, chunk, anchored=loss.anchored, taught=at, strata=term.strata)
            for at, (loss, term) in enumerate(self._losses)
            if self._teachers[at] is not None
            for chunk in _chunks(pools)
        )

    def _pool(self, pools: Pools, at: int, rows: slice) -> tuple[Float[Tensor, "r m"], Bool[Tensor, "r m"]]:
        loss, term = self._losses[at]
        taught = at if self._teachers[at] else None
        return pools.of(term.against, rows, anchored=loss.anchored, taught=taught, strata=term.strata)

    def __call__(
        self,
        scores: Mapping[int | None, Float[Tensor, "r m"]],
        pools: Pools,
        *,
        rows: slice,
        denominators: Sequence[int],
    ) -> Float[Tensor, ""]:
        """This chunk's share of the losses: shares of all rows and processes add up to the whole.

        Args:
            scores: of these rows, at each of `widths`.
        """
        share = next(iter(scores.values())).new_zeros(())
        for at, ((loss, term), denominator) in enumerate(zip(self._losses, denominators)):
            targets, mask = self._pool(pools, at, rows)
            for width, factor in term.widths.items():
                part = pools.arranged(scores[width], term.against, rows, anchored=loss.anchored)
                value = loss(part, targets.to(part.dtype), mask)
                value = value.sum() / max(denominator, 1) if loss.per_query else value
                share = share + term.weight * factor * value
        return share

    def penalty(self, queries: Reps, docs: Reps) -> Float[Tensor, ""]:
        """The regularisers' part, of the representations of all queries and all documents, each once."""
        total = queries.values.new_zeros(())
        for regulariser, weight in self._regularisers:
            total = total + weight * regulariser(queries, docs)
        return total


def _chunks(pools: Pools) -> list[slice]:
    """All rows, a few at a time, so that no table of a huge batch is made at once."""
    n, rows = len(pools.lists), max(1, _AT_ONCE // max(1, pools.columns))
    return [slice(begin, min(begin + rows, n)) for begin in range(0, n, rows)]


def _listed(batch: Batch, column: Int[np.ndarray, " own"], columns: int) -> Bool[np.ndarray, "q m"]:
    """Which pairs of the batch's queries and different documents stand in a list.

    Args:
        column: of each of this process's documents among the different ones.
    """
    listed = np.zeros((len(batch.query_ids), columns), bool)
    rows, places = batch.mask.cpu().numpy().nonzero()
    listed[rows, column[batch.lists.cpu().numpy()[rows, places]]] = True
    return listed
