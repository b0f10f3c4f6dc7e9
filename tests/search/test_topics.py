"""k-means: against a float64 reference and scikit-learn, deterministic, no cluster empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import NonFiniteError, UsageError
from rankwright.search import k_means, topics
from rankwright.search.topics import Clusters


def _k_means(vectors: np.ndarray, clusters: int, *, seed: int = 0, iterations: int = 100) -> Clusters:
    ids = [f"q{i}" for i in range(len(vectors))]
    return k_means(vectors.astype(np.float32), clusters, seed=seed, ids=ids, iterations=iterations)


def _blobs(rng: np.random.Generator, clusters: int, each: int, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat(np.arange(clusters), each)
    return (rng.normal(0, 10, (clusters, dim))[truth] + rng.normal(0, 0.5, (len(truth), dim))), truth


def _lloyd(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plain Lloyd in float64 with dense differences."""
    vectors, centroids = vectors.astype(np.float64), centroids.astype(np.float64)
    assigned = np.full(len(vectors), -1)
    while True:
        distances = ((vectors[:, None] - centroids[None]) ** 2).sum(-1)
        found = distances.argmin(1)
        if (found == assigned).all():
            return assigned, centroids
        assigned = found
        empty = [k for k in range(len(centroids)) if not (assigned == k).any()]
        farthest = np.argsort(-distances.min(1), kind="stable")
        for k in range(len(centroids)):
            if k not in empty:
                centroids[k] = vectors[assigned == k].mean(0)
        for k, row in zip(empty, farthest):
            centroids[k] = vectors[row]


@pytest.mark.parametrize("seed", range(4))
def test_it_goes_the_way_of_a_float64_reference(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(300, 8)).astype(np.float32)
    begin = topics._seeded(vectors, (vectors**2).sum(1), 12, seed)
    assigned, centroids = _lloyd(vectors, begin)
    found = _k_means(vectors, 12, seed=seed)
    same = {(int(a), int(b)) for a, b in zip(found.assigned, assigned)}
    assert len(same) == len(set(assigned.tolist())) == 12  # one to one: they differ in numbering alone
    for ours, theirs in same:
        np.testing.assert_allclose(found.centroids[ours], centroids[theirs], atol=1e-6)
    exact = ((vectors.astype(np.float64) - centroids[assigned]) ** 2).sum()
    assert found.inertia == pytest.approx(exact, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), clusters=st.integers(1, 20), distinct=st.integers(1, 60), seed=st.integers(0, 99))
def test_clusters_are_means_none_is_empty_and_largest_come_first(rows, clusters, distinct, seed) -> None:
    clusters = min(clusters, rows)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct, 4)).astype(np.float32)[rng.integers(distinct, size=rows)]
    found = _k_means(vectors, clusters, seed=seed)
    assert found.sizes.sum() == rows
    assert found.sizes.min() >= 1
    assert (np.diff(found.sizes) <= 0).all()
    assert len(found.sizes) == min(clusters, len(np.unique(vectors, axis=0)))
    for k in range(len(found.sizes)):
        np.testing.assert_allclose(found.centroids[k], vectors[found.assigned == k].mean(0), atol=1e-5)
    near = ((vectors[:, None] - found.centroids[None]) ** 2).sum(-1)
    assert (near[np.arange(rows), found.assigned] <= near.min(1) + 1e-4).all()
    again = _k_means(vectors, clusters, seed=seed)
    assert (again.assigned == found.assigned).all()
    assert (again.centroids == found.centroids).all()


def test_it_finds_what_is_there_whatever_the_block(monkeypatch) -> None:
    vectors, truth = _blobs(np.random.default_rng(0), 8, 40)
    found = _k_means(vectors, 8)
    assert len(set(zip(truth.tolist(), found.assigned.tolist()))) == 8
    monkeypatch.setattr(topics, "_BLOCK", 100)
    small = _k_means(vectors, 8)
    assert (small.assigned == found.assigned).all()
    np.testing.assert_allclose(small.centroids, found.centroids, atol=1e-6)


def test_a_cluster_without_rows_begins_anew_at_the_farthest() -> None:
    vectors = np.array([[0.0], [1], [2], [100]], np.float32)
    centroids = np.array([[1.0], [-50], [90]], np.float32)  # nobody is nearest to the second
    assigned, distances = topics._assign(vectors, (vectors**2).sum(1), centroids)
    assert assigned.tolist() == [0, 0, 0, 2]
    topics._fill_empty(vectors, distances, assigned, centroids)
    assert centroids.tolist() == [[1], [100], [90]]


def test_seeds_are_drawn_by_squared_distance() -> None:
    vectors = np.array([[0.0], [1], [3]], np.float32)
    counts = np.zeros((3, 3))
    for seed in range(1500):
        first, second = topics._seeded(vectors, (vectors**2).sum(1), 2, seed)[:, 0]
        counts[[0, 1, 3].index(int(first)), [0, 1, 3].index(int(second))] += 1
    expected = np.array([[0, 0.1, 0.9], [0.2, 0, 0.8], [9 / 13, 4 / 13, 0]]) / 3
    assert (np.abs(counts / 1500 - expected) < 5 * (expected * (1 - expected) / 1500) ** 0.5 + 1e-9).all()


def test_inertia_is_that_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    vectors = np.random.default_rng(3).normal(size=(600, 10)).astype(np.float32)
    theirs = [
        cluster.KMeans(20, n_init=1, max_iter=100, tol=0, random_state=seed).fit(vectors).inertia_ for seed in range(8)
    ]
    ours = [_k_means(vectors, 20, seed=seed).inertia for seed in range(8)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.02)
    begin = topics._seeded(vectors, (vectors**2).sum(1), 20, 0)
    same = cluster.KMeans(20, init=begin, n_init=1, max_iter=100, tol=0).fit(vectors)
    assert _k_means(vectors, 20).inertia == pytest.approx(same.inertia_, rel=1e-4)


def test_nearest_rows_come_first() -> None:
    vectors, _ = _blobs(np.random.default_rng(1), 3, 30)
    found = _k_means(vectors, 3)
    nearest = found.nearest(1, 5)
    assert (found.assigned[nearest] == 1).all()
    distances = found.distances[found.assigned == 1]
    np.testing.assert_array_equal(found.distances[nearest], np.sort(distances)[:5])


def test_wrong_input_is_refused() -> None:
    vectors = np.ones((3, 2))
    for clusters in (0, 4):
        with pytest.raises(UsageError, match="ask for 1 to 3 topics"):
            _k_means(vectors, clusters)
    vectors[1, 0] = np.nan
    with pytest.raises(NonFiniteError, match="'q1'"):
        _k_means(vectors, 2)
