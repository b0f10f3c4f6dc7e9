"""Approximate nearest neighbours by faiss: built from vectors in blocks, published, its recall reported."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from .. import randomness, signals, storage
from ..errors import ArtefactError, RecipeError, UsageError, missing_extra
from ..progress import Progress, progress
from .index import DocIds, Hits, Index, ranked
from .vectors import Vectors, check_queries, inner_products

if TYPE_CHECKING:
    from .exact import Exact

_FILE, _ROWS = "index.npy", 16384
_TRAINING_ROWS = 256  # per centroid, as faiss itself caps it
_ALONE = 3  # this many queries are read through one by one; more are multiplied as a matrix, 10x faster than as shipped
_GRID = {"flat": (0,), "hnsw": (16, 32, 64, 128, 256), "ivf": (1, 4, 16, 64, 256), "pq": (1, 4, 16, 64, 256)}


@dataclass(frozen=True)
class Ann:
    """An index that trades recall for speed.

    Args:
        kind: flat (exact, float32), ivf (inverted lists of k-means cells), hnsw (Malkov and Yashunin 2018) or pq
            (inverted lists of product-quantised residuals, Jégou et al. 2011: the smallest).
        nlist: cells of ivf and pq; by default 4 sqrt(documents).
        nprobe: cells that a query visits.
        hnsw_m: neighbours of a document in the graph.
        ef_construction: candidates while the graph is built.
        ef_search: candidates while it is searched.
        pq_m: bytes (at 8 bits) of a document's code, a divisor of the dimension; by default about a quarter of it.
        pq_bits: bits of each part of the code.
        seed: of k-means.

    Raises:
        RecipeError: a number out of range.
    """

    kind: Literal["flat", "ivf", "hnsw", "pq"] = "hnsw"
    nlist: int | None = None
    nprobe: int = 16
    hnsw_m: int = 32
    ef_construction: int = 200
    ef_search: int = 128
    pq_m: int | None = None
    pq_bits: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _GRID:
            raise RecipeError(f"ann kind {self.kind!r} is not known", fix=f"use one of {', '.join(_GRID)}")
        for name in ("nlist", "nprobe", "hnsw_m", "ef_construction", "ef_search", "pq_m"):
            value = getattr(self, name)
            if value is not None and value < (2 if name == "hnsw_m" else 1):
                raise RecipeError(f"{name} is too small: {value}", fix="leave it out for the default")
        if not 4 <= self.pq_bits <= 12:
            raise RecipeError(f"pq_bits must lie between 4 and 12, got {self.pq_bits}", fix="8 is usual")

    def build(self, folder: Path, vectors: Vectors) -> AnnIndex:
        """Index `vectors` in `folder`; reuses what is there of the same vectors and building settings.

        The index is held in memory while it is built. k-means is seeded; a graph (hnsw) built by several threads
        differs from build to build.

        Raises:
            UsageError: faiss is not installed, or there are too few vectors for the settings.
        """
        faiss = _faiss()
        building = {name: value for name, value in asdict(self).items() if name not in ("nprobe", "ef_search")}
        facts = f"ann\x1f{json.dumps(building, sort_keys=True)}\x1f{vectors.fingerprint}"
        key = hashlib.sha256(facts.encode()).hexdigest()
        if not storage.is_current(folder, "ann", key):
            with _matrix_products(faiss, vectors.dim), progress("index", len(vectors), "docs") as bar:
                index = self._empty(faiss, vectors)
                for _, block in vectors.blocks(_ROWS):
                    signals.check()
                    index.add(np.ascontiguousarray(block, np.float32))
                    bar.advance(len(block))
            meta = {"spec": asdict(self), "dim": vectors.dim, "max_norm": vectors.max_norm}
            with storage.publish(folder, "ann", key=key, meta=meta) as draft:
                vectors.ids.write(draft)
                storage.write_npy(draft.file(_FILE), faiss.serialize_index(index))
        return AnnIndex.open(folder).at(nprobe=self.nprobe, ef_search=self.ef_search)

    def _empty(self, faiss: ModuleType, vectors: Vectors) -> Any:
        """The index before the documents come, its k-means trained on a sample of them."""
        rows, dim = len(vectors), vectors.dim
        nlist = self.nlist or max(1, min(round(4 * rows**0.5), rows // 39))
        pq_m = self.pq_m or max(m for m in range(1, max(1, dim // 4) + 1) if dim % m == 0)
        least = {"ivf": nlist, "pq": max(nlist, 2**self.pq_bits)}.get(self.kind, 1)
        if rows < least:
            raise UsageError(
                f"{rows} vectors are too few for ann kind {self.kind!r}, which needs {least}",
                fix="use kind hnsw or flat, or a smaller nlist or pq_bits",
            )
        if self.kind == "pq" and dim % pq_m:
            raise UsageError(f"pq_m {pq_m} does not divide {dim} dimensions", fix=f"use a divisor of {dim}")
        recipe = {
            "flat": "Flat", "hnsw": f"HNSW{self.hnsw_m},Flat", "ivf": f"IVF{nlist},Flat",
            "pq": f"IVF{nlist},PQ{pq_m}x{self.pq_bits}",
        }[self.kind]  # fmt: skip
        index = faiss.index_factory(dim, recipe, faiss.METRIC_INNER_PRODUCT)
        if self.kind == "hnsw":
            index.hnsw.efConstruction = self.ef_construction
        if self.kind in ("ivf", "pq"):
            for means in (index.cp, index.pq.cp) if self.kind == "pq" else (index.cp,):
                means.seed = randomness.key(self.seed, "ann") % 2**31
                means.min_points_per_centroid = 1  # fewer are no reason to write to stderr
            sample = randomness.permutation(rows, self.seed, "ann sample")[: _TRAINING_ROWS * max(nlist, least)]
            index.train(np.ascontiguousarray(vectors.take(np.sort(sample)), np.float32))
        return index


class AnnIndex(Index[np.ndarray]):
    """faiss finds candidates, float64 products with the vectors that the index stores rank them.

    With kind pq those are the decoded codes. A document that faiss does not find is no hit.
    """

    def __init__(self, spec: Ann, ids: DocIds, index: Any, manifest: storage.Manifest) -> None:
        self.spec, self.ids, self._index, self._manifest = spec, ids, index, manifest

    @classmethod
    def open(cls, folder: Path) -> AnnIndex:
        """Load the index that `Ann.build` wrote into memory; open only what you made: faiss trusts its bytes.

        Raises:
            ArtefactError: missing, damaged or of another kind. UsageError: faiss is not installed.
        """
        faiss, manifest = _faiss(), storage.verify(folder, "ann")
        try:
            index = faiss.deserialize_index(np.asarray(storage.read_npy(manifest.folder / _FILE)))
            spec, ids = Ann(**manifest.meta["spec"]), DocIds.open(manifest.folder)
        except (RuntimeError, TypeError, KeyError) as error:
            raise ArtefactError(f"not an ann index ({error})", where=folder, fix="index again") from error
        if index.ntotal != len(ids) or index.d != manifest.meta["dim"]:
            raise ArtefactError(f"{len(ids)} ids, {index.ntotal} vectors", where=folder, fix="index again")
        if spec.kind in ("ivf", "pq"):
            index.make_direct_map()  # from row to cell: `scores` looks vectors up by row
        return cls(spec, ids, index, manifest)

    def at(self, *, nprobe: int | None = None, ef_search: int | None = None) -> AnnIndex:
        """The same index, searched with more or less effort."""
        given = {"nprobe": nprobe, "ef_search": ef_search}
        spec = replace(self.spec, **{name: value for name, value in given.items() if value is not None})
        return AnnIndex(spec, self.ids, self._index, self._manifest)

    @property
    def fingerprint(self) -> str:
        return f"ann {self._manifest.key} {self.spec.nprobe} {self.spec.ef_search}"

    def check(self, queries: Float[np.ndarray, "q dim"], query_ids: Sequence[str]) -> None:
        check_queries(queries, query_ids, dim=self._index.d, max_norm=self._manifest.meta["max_norm"])

    def hits(self, queries: Float[np.ndarray, "q dim"], *, k: int, bar: Progress) -> Hits:
        faiss = _faiss()
        k, parameters = min(k, len(self.ids)), self._parameters(faiss)
        wanted = min(k + 10 + k // 10, len(self.ids))  # float64 decides who is cut
        found = []
        with _matrix_products(faiss, self._index.d):
            for start in range(0, len(queries), 256):
                signals.check()
                part = np.ascontiguousarray(queries[start : start + 256])
                found.append(self._index.search(part, wanted, params=parameters)[1])
                bar.advance(len(part) * len(self.ids))
        rows = np.concatenate([np.empty((0, wanted), np.int64), *found])
        query, place = np.nonzero(rows >= 0)
        row = rows[query, place]
        score = self.scores(queries, query_rows=query, doc_rows=row)
        query, row, score = ranked(query, row, score, ids=self.ids, queries=len(queries), k=k)
        return Hits(np.bincount(query, minlength=len(queries)), row, score)

    def scores(
        self, queries: Float[np.ndarray, "q dim"], *, query_rows: np.ndarray, doc_rows: np.ndarray
    ) -> Float[np.ndarray, " pairs"]:
        return inner_products(self._index.reconstruct_batch, queries, query_rows=query_rows, doc_rows=doc_rows)

    def _parameters(self, faiss: ModuleType) -> Any:
        if self.spec.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=self.spec.ef_search)
        if self.spec.kind in ("ivf", "pq"):
            return faiss.SearchParametersIVF(nprobe=min(self.spec.nprobe, self._index.nlist))
        return None

    def efforts(self) -> list[AnnIndex]:
        """The same index at increasing nprobe or ef_search: what `recall` compares."""
        if self.spec.kind == "flat":
            return [self]
        if self.spec.kind == "hnsw":
            return [self.at(ef_search=n) for n in sorted({*_GRID["hnsw"], self.spec.ef_search})]
        cells = sorted({min(n, self._index.nlist) for n in (*_GRID[self.spec.kind], self.spec.nprobe)})
        return [self.at(nprobe=n) for n in cells]


def recall(index: AnnIndex, exact: Exact, queries: Float[np.ndarray, "q dim"], *, k: int = 10) -> list[dict[str, Any]]:
    """What approximation costs: per effort the share of the exact k best that is found, and queries per second.

    The last row is exact search.

    Raises:
        UsageError: no query.
    """
    if not len(queries):
        raise UsageError("recall needs at least one query", fix="check the query file")
    names, table = [f"q{row}" for row in range(len(queries))], []
    began = time.perf_counter()
    truth = [set(docs) for _, docs, _ in exact.search(queries, names, k=k)]
    exact_rate = len(queries) / (time.perf_counter() - began)
    total = sum(map(len, truth))
    for tried in index.efforts():
        began = time.perf_counter()
        run = tried.search(queries, names, k=k)
        rate = len(queries) / (time.perf_counter() - began)
        shared = sum(len(best.intersection(docs)) for best, (_, docs, _) in zip(truth, run))
        setting = {"hnsw": f"ef_search {tried.spec.ef_search}", "flat": "flat"}
        label = setting.get(tried.spec.kind, f"nprobe {tried.spec.nprobe}")
        table.append({"setting": label, f"recall@{k}": shared / total, "queries/s": rate})
    return [*table, {"setting": "exact", f"recall@{k}": 1.0, "queries/s": exact_rate}]


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise missing_extra("faiss-cpu", "ann", "an approximate index") from error
    return faiss


@contextmanager
def _matrix_products(faiss: ModuleType, dim: int) -> Iterator[None]:
    """faiss multiplies matrices from 128,000 / dim queries on; within the block from four on."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = (_ALONE + 1) * dim
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
