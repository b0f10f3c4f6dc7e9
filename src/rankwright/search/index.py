"""What every index shares: document ids and their order, hits to runs, searches that restart where they were."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, overload

import numpy as np

from .. import storage
from ..errors import ArtefactError, DataError, UsageError
from ..names import Names, picked, selected
from ..progress import Progress, progress
from ..types import Qrels, Run

_QUERIES_PER_CHUNK = 1024
_IDS_AT_ONCE = 1 << 16
_HIT = np.dtype([("query", "<i4"), ("row", "<i8"), ("score", "<f8")])
_IDS, _OFFSETS, _ORDER = "ids.npy", "ids.offsets.npy", "ids.order.npy"

Queries = TypeVar("Queries", np.ndarray, Sequence[str])


class DocIds(Sequence[str]):
    """Document ids, packed, and their bytewise order; memory-mapped when opened."""

    def __init__(self, names: Names, order: np.ndarray) -> None:
        self.names, self._order = names, np.asarray(order)

    @classmethod
    def of(cls, ids: Sequence[str]) -> DocIds:
        """Pack ids (unique and not empty).

        Raises:
            DataError: an id is empty or occurs twice.
        """
        if isinstance(ids, DocIds):
            return ids
        import pyarrow as pa
        from pyarrow import compute

        names = Names.of(ids)
        if len(empty := np.flatnonzero(np.diff(names.to_bytes()[1]) == 0)):
            raise DataError(f"row {empty[0]} has an empty document id", fix="give every document an id")
        order = names.sorting().astype(np.int32)
        for start in range(0, len(order) - 1, _IDS_AT_ONCE):
            ordered = names.packed.take(pa.array(order[start : start + _IDS_AT_ONCE + 1]))
            twice = compute.index(compute.call_function("equal", [ordered[1:], ordered[:-1]]), True).as_py()
            if twice >= 0:
                a, b = order[start + twice : start + twice + 2].tolist()
                raise DataError(f"document id {ids[a]!r} occurs twice (rows {min(a, b)} and {max(a, b)})")
        return cls(names, order)

    @classmethod
    def open(cls, folder: Path) -> DocIds:
        """Those that `write` left in a published folder."""
        text, offsets, order = (np.asarray(storage.read_npy(folder / name)) for name in (_IDS, _OFFSETS, _ORDER))
        fits = text.dtype == np.uint8 and offsets.dtype == np.int64 and order.dtype == np.int32
        fits = fits and text.ndim == offsets.ndim == order.ndim == 1 and len(offsets) == len(order) + 1
        if not fits or offsets[0] != 0 or offsets[-1] != len(text) or bool((np.diff(offsets) <= 0).any()):
            raise ArtefactError("the document ids are damaged", where=folder / _IDS, fix="make the artefact again")
        return cls(Names.of_bytes(text, offsets), order)

    def write(self, draft: storage.Draft) -> None:
        for name, array in zip((_IDS, _OFFSETS, _ORDER), (*self.names.to_bytes(), self._order)):
            storage.write_npy(draft.file(name), array)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        return self.names[row]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def take(self, rows: np.ndarray) -> list[str]:
        """The ids of the given rows."""
        return picked(self.names, rows)

    @property
    def order(self) -> np.ndarray:
        """int32 [rows]: the rows in bytewise order of their ids."""
        return self._order

    @cached_property
    def ranks(self) -> np.ndarray:
        """int32 [rows]: place of each id in bytewise order; of two tied documents the higher place comes first."""
        ranks = np.empty(len(self), np.int32)
        ranks[self._order] = np.arange(len(self), dtype=np.int32)
        return ranks

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """int64 [ids]: row of each id, -1 where there is none."""
        return np.fromiter((self._row(name) for name in ids), np.int64)

    def _row(self, name: str) -> int:
        # bytewise order of UTF-8 is the order of code points, which is how Python compares strings
        place = bisect_left(range(len(self)), name, key=lambda i: self[int(self._order[i])])
        row = int(self._order[place]) if place < len(self) else -1
        return row if row >= 0 and self[row] == name else -1

    def digest(self) -> str:
        text, offsets = self.names.to_bytes()
        made = hashlib.sha256(np.ascontiguousarray(offsets).data)
        made.update(np.ascontiguousarray(text).data)
        return made.hexdigest()


class Hits(NamedTuple):
    """What an index found: `sizes` [q] hits per query; `rows` and `scores` [hits], best first within a query."""

    sizes: np.ndarray
    rows: np.ndarray
    scores: np.ndarray

    @staticmethod
    def concatenate(parts: Sequence[Hits]) -> Hits:
        empty = Hits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
        return Hits(*(np.concatenate(column) for column in zip(empty, *parts)))


def ranked(
    query: np.ndarray, row: np.ndarray, score: np.ndarray, *, ids: DocIds, queries: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(query, row, score) of the k best of each query in trec_eval's order, from all its candidates."""
    order = np.lexsort((-ids.ranks[row], -score, query))
    kept = order[places(query[order], queries) < k]
    return query[kept], row[kept], score[kept]


def places(group: np.ndarray, groups: int) -> np.ndarray:
    """Position of each element within its group, for grouped ids."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))])
    return np.arange(len(group)) - starts[group]


class Index(ABC, Generic[Queries]):
    """Documents that can be searched; a dense index takes query vectors, a lexical one query texts.

    Hits come in trec_eval's order and are cut at k in that order.
    """

    ids: DocIds

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of everything that decides what a search returns."""

    @abstractmethod
    def check(self, queries: Queries, query_ids: Sequence[str]) -> None:
        """Refuse queries that this index cannot take, naming them."""

    @abstractmethod
    def hits(self, queries: Queries, *, k: int, bar: Progress) -> Hits:
        """The k best documents of each query; advances `bar` by the number of query-document pairs."""

    @abstractmethod
    def scores(self, queries: Queries, *, query_rows: np.ndarray, doc_rows: np.ndarray) -> np.ndarray:
        """float64 [pairs]: the scores that `hits` would give to these pairs."""

    def search(self, queries: Queries, query_ids: Sequence[str], *, k: int) -> Run:
        """The k best documents of each query, in trec_eval's order.

        Raises:
            UsageError: k below 1, or query ids that are repeated or do not fit the queries.
            NonFiniteError: a query holds NaN or infinity.
        """
        _check_queries(self, queries, query_ids, k)
        with progress("search", len(query_ids) * len(self.ids), "pairs") as bar:
            hits = self.hits(queries, k=k, bar=bar)
        return _to_run(hits, query_ids, self.ids)

    def score(self, queries: Queries, query_ids: Sequence[str], *, pairs: Run | Qrels) -> Run:
        """Our scores of given (query, document) pairs, whatever their rank; pairs with unknown ids are left out."""
        _check_queries(self, queries, query_ids, 1)
        known = {name: row for row, name in enumerate(query_ids)}
        query_row = np.array([known.get(name, -1) for name in pairs.queries], dtype=np.int64)
        doc_row = self.ids.rows(pairs.docs)
        group = np.repeat(np.arange(len(pairs.queries)), np.diff(pairs.offsets))
        kept = (query_row[group] >= 0) & (doc_row[pairs.columns] >= 0)
        group, columns = group[kept], pairs.columns[kept]
        values = self.scores(queries, query_rows=query_row[group], doc_rows=doc_row[columns])
        sizes = np.bincount(group, minlength=len(pairs.queries))
        return Run(pairs.queries, pairs.docs, _offsets(sizes), columns, values)


def search_into(
    folder: Path,
    index: Index[Queries],
    *,
    queries: Queries,
    query_ids: Sequence[str],
    k: int,
    chunk_queries: int = _QUERIES_PER_CHUNK,
) -> Run:
    """`Index.search` into an artefact: a killed search goes on behind its last finished chunk of queries.

    The folder is reused without work when it already answers the same queries on the same index.

    Raises:
        UsageError, NonFiniteError: as `Index.search`. ResourceError: the disk is full.
    """
    _check_queries(index, queries, query_ids, k)
    facts = [index.fingerprint, str(k), str(chunk_queries), *map(str, query_ids), _digest(queries)]
    key = hashlib.sha256("\x1f".join(facts).encode("utf-8", "surrogatepass")).hexdigest()
    if storage.is_current(folder, "ranking", key):
        return open_ranking(folder)
    starts = range(0, len(query_ids), chunk_queries)
    meta = {"queries": len(query_ids), "k": k, "chunks": len(starts)}
    with (
        storage.publish(folder, "ranking", key=key, meta=meta, resume=True) as draft,
        progress("search", len(query_ids) * len(index.ids), "pairs") as bar,
    ):
        for chunk, start in enumerate(starts):
            part = queries[start : start + chunk_queries]
            if draft.has(_chunk_name(chunk)):
                bar.skip(len(part) * len(index.ids))
                continue
            hits = index.hits(part, k=k, bar=bar)  # a signal stops in there: nothing but this chunk is lost
            table = np.empty(len(hits.rows), _HIT)
            table["query"] = start + np.repeat(np.arange(len(part)), hits.sizes)
            table["row"], table["score"] = hits.rows, hits.scores
            storage.write_npy(draft.file(_chunk_name(chunk)), table)
            draft.done(_chunk_name(chunk))
        chunks = [storage.read_npy(draft.file(_chunk_name(chunk)))["row"] for chunk in range(len(starts))]
        used = np.unique(np.concatenate([np.empty(0, np.int64), *chunks]))
        DocIds.of(selected(index.ids.names, used)).write(draft)
        storage.write_json(draft.file("queries.json"), list(query_ids))
    return open_ranking(folder)


def open_ranking(folder: Path) -> Run:
    """The run that `search_into` left in `folder`.

    Raises:
        ArtefactError: missing, damaged or of another kind.
    """
    meta = storage.verify(folder, "ranking").meta
    query_ids, docs = storage.read_json(folder / "queries.json"), DocIds.open(folder).names
    chunks = [storage.read_npy(folder / _chunk_name(chunk)) for chunk in range(meta["chunks"])]
    table = np.concatenate([np.empty(0, _HIT), *chunks])
    used, columns = np.unique(table["row"], return_inverse=True)
    if len(used) != len(docs) or len(query_ids) != meta["queries"]:
        raise ArtefactError("its hits, queries and documents do not fit together", where=folder, fix="search again")
    sizes = np.bincount(table["query"], minlength=len(query_ids))
    return Run(tuple(query_ids), docs, _offsets(sizes), columns.astype(np.int32), table["score"])


def _chunk_name(chunk: int) -> str:
    return f"hits-{chunk:06d}.npy"


def _digest(queries: np.ndarray | Sequence[str]) -> str:
    if isinstance(queries, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(queries).tobytes()).hexdigest()
    return hashlib.sha256("\x1f".join(queries).encode("utf-8", "surrogatepass")).hexdigest()


def _check_queries(index: Index[Queries], queries: Queries, query_ids: Sequence[str], k: int) -> None:
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if len(queries) != len(query_ids):
        raise UsageError(f"{len(queries)} queries but {len(query_ids)} query ids")
    if len(set(query_ids)) != len(query_ids):
        seen: set[str] = set()
        twice = next(name for name in query_ids if name in seen or seen.add(name))
        raise UsageError(f"query id {twice!r} occurs twice", fix="give every query its own id")
    index.check(queries, query_ids)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _to_run(hits: Hits, query_ids: Sequence[str], ids: DocIds) -> Run:
    used, columns = np.unique(hits.rows, return_inverse=True)
    docs = selected(ids.names, used)
    return Run(tuple(query_ids), docs, _offsets(hits.sizes), columns.astype(np.int32), hits.scores)
