"""The data sets of one stage side by side: their texts by namespaced id, memory-mapped where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from ..errors import DataError, RecipeError
from ..names import picked
from ..types import Document, Qrels
from ._parting import UNDIVIDED, Parting
from .corpus import Corpus
from .dataset import Dataset, rows_where, select_queries
from .policy import shown
from .supervision import Supply

if TYPE_CHECKING:
    from .policy import Reading
    from .sources import Source

_AT_ONCE = 1 << 16  # ids that are strings at the same time


class Part(NamedTuple):
    """A data set, and what stands before its ids ("": nothing)."""

    dataset: Dataset
    namespace: str
    query_namespace: str


class Collection:
    """Corpora side by side: the rows of the first, then those of the next; none of them is copied.

    Attributes:
        parts: (namespace, corpus) of each; equal ones stand there once.
    """

    def __init__(self, corpora: Iterable[tuple[str, Corpus]]) -> None:
        distinct = {(namespace, corpus.fingerprint): (namespace, corpus) for namespace, corpus in corpora}
        self.parts = tuple(distinct.values())
        self._begins = np.cumsum([0, *(len(corpus) for _, corpus in self.parts)])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def __getitem__(self, row: int) -> Document:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        at = int(np.searchsorted(self._begins, row, side="right")) - 1
        namespace, corpus = self.parts[at]
        document = corpus[row - int(self._begins[at])]
        return document._replace(id=namespaced(document.id, namespace))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all ids, titles and texts in their order; one corpus without a namespace has its own."""
        if len(self.parts) == 1 and not self.parts[0][0]:
            return self.parts[0][1].fingerprint
        named = "\n".join(f"{namespace}={corpus.fingerprint}" for namespace, corpus in self.parts)
        return xxhash.xxh3_128_hexdigest(named.encode("utf-8", "surrogatepass"))

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of many documents (int64 [n]), -1 where there is none of the id.

        Raises:
            DataError: an id stands for two different texts.
        """
        blocks = [self._rows(ids[begin : begin + _AT_ONCE]) for begin in range(0, len(ids), _AT_ONCE)]
        return np.concatenate([np.zeros(0, np.int64), *blocks])

    def _rows(self, ids: Sequence[str]) -> np.ndarray:
        found = np.full(len(ids), -1, np.int64)
        for begin, (namespace, corpus) in zip(self._begins.tolist(), self.parts):
            prefix = namespaced("", namespace)
            places = [i for i, name in enumerate(ids) if name.startswith(prefix)] if prefix else range(len(ids))
            own = corpus.rows([ids[i][len(prefix) :] for i in places])
            for i, row in zip(np.asarray(places, np.int64)[own >= 0].tolist(), own[own >= 0].tolist()):
                if found[i] < 0:
                    found[i] = begin + row
                else:
                    self._check_same(str(ids[i]), int(found[i]), begin + row)
        return found

    def _check_same(self, name: str, one: int, other: int) -> None:
        if self[one][1:] != self[other][1:]:
            first, second = (shown(f"{self[row].title} {self[row].text}".strip()) for row in (one, other))
            raise DataError(
                f"the id {shown(name)} stands for two texts in the data sets of one stage: {first} and {second}",
                where="data", fix="give one of the sources a namespace (documents) or a query_namespace (queries)",
            )  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """All data sets that the sources of a stage are over; the same one named twice is one."""

    parts: tuple[Part, ...]

    @classmethod
    def open(cls, sources: Sequence[Source], opened: Callable[[str], Dataset]) -> Mixture:
        """Open the data set of each source by its name.

        Raises:
            RecipeError: no source.
            DataError: a problem of policy.py.
        """
        if not sources:
            raise RecipeError("no source", where="data", fix="e.g. data: [Judged: {dataset: my_folder}]")
        datasets = {name: opened(name) for name in dict.fromkeys(source.dataset for source in sources)}
        parts = [Part(datasets[s.dataset], s.namespace or "", s.query_namespace or "") for s in sources]
        return cls(tuple({(part.dataset.name, *part[1:]): part for part in parts}.values()))

    @classmethod
    def of(cls, dataset: Dataset) -> Mixture:
        """One data set, under its own ids."""
        return cls((Part(dataset, "", ""),))

    @property
    def first(self) -> Dataset:
        """The data set of the first source."""
        return self.parts[0].dataset

    @cached_property
    def corpus(self) -> Collection:
        """The documents."""
        return Collection((part.namespace, part.dataset.corpus) for part in self.parts)

    @cached_property
    def queries(self) -> Collection:
        """The queries, as documents without a title."""
        return Collection((part.query_namespace, part.dataset.queries) for part in self.parts)

    def dataset_of(self, source: Source) -> Dataset:
        """The data set that one of the sources is over."""
        return next(part.dataset for part in self.parts if part.dataset.name == source.dataset)

    def supplies(
        self, source: Source, *, reading: Reading | None = None, parting: Parting = UNDIVIDED
    ) -> Iterator[Supply]:
        """What one of the sources gives, part by part, under the ids of the mixture.

        Documents that its corpus lacks are left out.

        Raises:
            RecipeError: it is limited to queries, and none of its own is among them.
            DataError: a problem of policy.py.
        """
        dataset = self.dataset_of(source)
        reading, keep = reading or dataset.reading, source.keep
        chosen, seen, taken = source.chosen(reading=reading), 0, 0
        parting = parting._replace(prefix=namespaced("", source.query_namespace))
        for table in source.parts(dataset, reading=reading, parting=parting):
            among = chosen(table.queries)
            seen, taken = seen + len(among), taken + int(among.sum())
            table = table if among.all() else select_queries(table, np.flatnonzero(among))
            table = rows_where(table, (dataset.corpus.rows(table.docs) >= 0)[table.columns])
            named = Qrels(
                [namespaced(name, source.query_namespace) for name in table.queries],
                [namespaced(name, source.namespace) for name in table.docs],
                table.offsets, table.columns, source.targets(table.values),
            )  # fmt: skip
            yield Supply(
                named, keep.fixed(table) if keep else None, draw=keep.random if keep else None,
                grades=source.grades(table.values), ranked=source.ranked,
            )  # fmt: skip
        if source.queries is not None and not taken:
            raise RecipeError(
                f"queries: {source.queries} names none of its {seen:,} queries",
                where=type(source).__name__, fix="check the file, or take a larger part",
            )  # fmt: skip

    def check(self, table: Qrels) -> None:
        """That every id of a merged table stands for one text.

        Raises:
            DataError: one stands for two.
        """
        for side, ids in ((self.queries, table.queries), (self.corpus, table.docs)):
            if len(side.parts) > 1:
                side.rows(ids)

    def of_first(self, table: Qrels) -> Qrels:
        """What a merged table says about the first data set alone, in that one's own ids.

        Its queries are those that have a document above 0 there.
        """
        part = self.parts[0]
        if len(self.parts) == 1 and not part.namespace and not part.query_namespace:
            return table
        queries, known = _own(table.queries, part.query_namespace, part.dataset.queries)
        docs, there = _own(table.docs, part.namespace, part.dataset.corpus)
        table = rows_where(Qrels(queries, docs, table.offsets, table.columns, table.values), there[table.columns])
        group = np.repeat(np.arange(len(queries)), np.diff(table.offsets))
        known &= np.bincount(group[table.values > 0], minlength=len(queries)) > 0
        table = select_queries(table, np.flatnonzero(known))
        used, columns = np.unique(table.columns, return_inverse=True)
        return Qrels(table.queries, picked(docs, used), table.offsets, columns.astype(np.int32), table.values)


def namespaced(name: str, namespace: str | None) -> str:
    """An id as the mixture knows it."""
    return f"{namespace}:{name}" if namespace else name


def _own(ids: Sequence[str], namespace: str, corpus: Corpus) -> tuple[list[str], np.ndarray]:
    """(ids without the namespace, which of them the corpus has)."""
    prefix = namespaced("", namespace)
    own = [name.removeprefix(prefix) for name in ids]
    named = np.array([name.startswith(prefix) for name in ids], bool)
    return own, named & (corpus.rows(own) >= 0)
