"""Topics of queries: k-means of their vectors, by Lloyd's steps from k-means++ seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .. import signals
from ..errors import UsageError
from ..progress import progress
from ..randomness import generator
from .vectors import require_finite

_BLOCK = 1 << 22  # products of a block: 16 MiB of float32
_SEEDING_ROWS = 64  # per cluster; k-means++ looks at a sample of so many, for its cost grows with the square of k


@dataclass(frozen=True)
class Clusters:
    """What k-means found; clusters are numbered by size, the largest first, and none is empty."""

    assigned: Int[np.ndarray, " rows"]  # int64: the cluster of each row
    centroids: Float[np.ndarray, "k dim"]  # float32: means of the rows
    distances: Float[np.ndarray, " rows"]  # float64: squared Euclidean, of each row to its centroid

    @property
    def sizes(self) -> Int[np.ndarray, " k"]:
        """How many rows each cluster has (int64)."""
        return np.bincount(self.assigned, minlength=len(self.centroids))

    @property
    def inertia(self) -> float:
        """The sum of the squared distances, which k-means makes small."""
        return float(self.distances.sum())

    def nearest(self, cluster: int, count: int) -> Int[np.ndarray, " taken"]:
        """The rows of a cluster that are nearest to its centroid, nearest first."""
        rows = np.flatnonzero(self.assigned == cluster)
        return rows[np.argsort(self.distances[rows], kind="stable")[:count]]


def k_means(
    vectors: Float[np.ndarray, "rows dim"], clusters: int, *, seed: int, ids: Sequence[str], iterations: int = 100
) -> Clusters:
    """Cluster rows near to their cluster's mean (Lloyd 1982), from k-means++ seeds (Arthur and Vassilvitskii 2007).

    The same rows, seed and number of threads give the same clusters, bit for bit. A cluster that loses all its rows
    begins anew at the row that is farthest from its centroid. Fewer distinct rows than `clusters` give fewer clusters.

    Args:
        ids: of the rows, for errors.
        iterations: at most; it ends before where no row changes its cluster.

    Raises:
        UsageError: more clusters than rows, or less than one. NonFiniteError: a row holds NaN or infinity.
    """
    if not 1 <= clusters <= len(vectors):
        what = f"{clusters} topics of {len(vectors):,} queries"
        raise UsageError(what, fix=f"ask for 1 to {len(vectors)} topics: --topics K")
    vectors = np.ascontiguousarray(vectors, np.float32)
    require_finite(vectors, ids, first=0, shard=0)
    norms = np.einsum("nd,nd->n", vectors, vectors)
    centroids = _seeded(vectors, norms, clusters, seed)
    assigned = np.full(len(vectors), -1, np.int64)
    with progress("cluster", iterations, "rounds") as bar:
        for _ in range(iterations):
            found, distances = _assign(vectors, norms, centroids)
            settled = bool((found == assigned).all())
            assigned = found
            if settled:
                break
            centroids = _means(vectors, assigned, centroids)
            _fill_empty(vectors, distances, assigned, centroids)
            bar.advance()
    return _numbered(vectors, assigned, clusters)


def _blocks(rows: int, width: int) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, size):
        signals.check()
        yield slice(start, min(start + size, rows))


def _assign(vectors: np.ndarray, norms: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid of each row, the first of equals, and its squared distance (int64, float32 [rows])."""
    assigned, distances = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    offsets = np.einsum("kd,kd->k", centroids, centroids)
    for block in _blocks(len(vectors), len(centroids)):
        products = vectors[block] @ centroids.T
        products *= -2
        products += offsets
        assigned[block] = products.argmin(axis=1)
        distances[block] = np.take_along_axis(products, assigned[block, None], 1)[:, 0]
    distances += norms
    return assigned, np.maximum(distances, 0, out=distances)


def _means(vectors: np.ndarray, assigned: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The mean of each cluster's rows, summed in float64; an empty cluster stays where it was."""
    sums = np.zeros(before.shape, np.float64)
    for block in _blocks(len(vectors), vectors.shape[1]):
        order = np.argsort(assigned[block], kind="stable")
        present, starts = np.unique(assigned[block][order], return_index=True)
        sums[present] += np.add.reduceat(vectors[block][order], starts, axis=0, dtype=np.float64)
    sizes = np.bincount(assigned, minlength=len(before))[:, None]
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), before).astype(np.float32)


def _fill_empty(vectors: np.ndarray, distances: np.ndarray, assigned: np.ndarray, centroids: np.ndarray) -> None:
    """Put the centroids that have no rows where the farthest rows are."""
    empty = np.flatnonzero(np.bincount(assigned, minlength=len(centroids)) == 0)
    if len(empty):
        centroids[empty] = vectors[np.argsort(-distances, kind="stable")[: len(empty)]]


def _seeded(vectors: np.ndarray, norms: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """k-means++: each further centroid is a row, drawn in proportion to its squared distance from those before."""
    rng = generator(seed, "k-means++")
    sample = np.sort(rng.permutation(len(vectors))[: clusters * _SEEDING_ROWS])
    rows, norms = (vectors, norms) if len(sample) == len(vectors) else (vectors[sample], norms[sample])
    chosen = [int(rng.integers(len(rows)))]
    nearest = np.full(len(rows), np.inf)
    for _ in range(1, clusters):
        signals.check()
        last = chosen[-1]
        distances = np.maximum(norms - 2 * (rows @ rows[last]) + norms[last], 0)
        distances[last] = 0
        nearest = np.minimum(nearest, distances)
        upper = np.cumsum(nearest)
        drawn = int(np.searchsorted(upper, rng.random() * upper[-1], side="right"))
        chosen.append(min(drawn, len(rows) - 1))
    return rows[chosen].copy()


def _numbered(vectors: np.ndarray, assigned: np.ndarray, clusters: int) -> Clusters:
    sizes = np.bincount(assigned, minlength=clusters)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    number = np.full(clusters, -1, np.int64)
    number[order] = np.arange(len(order))
    assigned = number[assigned]
    centroids = _means(vectors, assigned, np.zeros((len(order), vectors.shape[1]), np.float32))
    distances = np.empty(len(vectors))
    for block in _blocks(len(vectors), vectors.shape[1]):
        apart = vectors[block].astype(np.float64) - centroids[assigned[block]]
        distances[block] = np.einsum("nd,nd->n", apart, apart)
    return Clusters(assigned, centroids, distances)
