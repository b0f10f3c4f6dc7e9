"""Batches: every query once an epoch, documents apart or together, a pure function of (seed, epoch)."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import Batches, ByDocument, ByLength, EpochPlan, Shuffled
from rankwright.errors import RecipeError
from rankwright.randomness import permutation

_LISTS = st.lists(st.lists(st.integers(0, 25), max_size=4, unique=True), min_size=1, max_size=60)


def _plan(lists: list[list[int]], spec: Batches, *, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    plan = spec.plan([f"q{i}" for i in range(len(lists))], lists.__getitem__, seed=seed, epoch=epoch)
    return [plan.batch(i).tolist() for i in range(len(plan))]


def _first_fit(lists: list[list[int]], order: list[int], size: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for query in order:
        for batch in batches:
            if len(batch) < size and not any(set(lists[query]) & set(lists[other]) for other in batch):
                batch.append(query)
                break
        else:
            batches.append([query])
    return batches


@settings(max_examples=150, deadline=None)
@given(lists=_LISTS, size=st.integers(1, 12), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_each_query_once_and_no_document_twice(lists: list[list[int]], size: int, seed: int, epoch: int) -> None:
    batches = _plan(lists, Shuffled(size), seed=seed, epoch=epoch)
    assert sorted(query for batch in batches for query in batch) == list(range(len(lists)))
    for batch in batches:
        docs = [doc for query in batch for doc in lists[query]]
        assert len(docs) == len(set(docs))
        assert 1 <= len(batch) <= size
    order = permutation(len(lists), seed, "batches", epoch).tolist()
    assert batches == _first_fit(lists, order, size)


@settings(max_examples=50, deadline=None)
@given(lists=_LISTS, size=st.integers(1, 12), seed=st.integers(0, 99))
def test_repeats_allow_full_batches(lists: list[list[int]], size: int, seed: int) -> None:
    batches = _plan(lists, Shuffled(size, repeats=True), seed=seed)
    assert [query for batch in batches for query in batch] == permutation(len(lists), seed, "batches", 0).tolist()
    assert all(len(batch) == size for batch in batches[:-1])


@settings(max_examples=100, deadline=None)
@given(lists=_LISTS, size=st.integers(1, 12), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_queries_of_one_document_are_neighbours(lists, size, seed, epoch) -> None:
    batches = _plan(lists, ByDocument(size), seed=seed, epoch=epoch)
    order = [query for batch in batches for query in batch]
    assert sorted(order) == list(range(len(lists)))
    assert all(len(batch) == size for batch in batches[:-1])
    firsts = [lists[query][0] if lists[query] else -1 - query for query in order]
    assert len([k for k, _ in itertools.groupby(firsts)]) == len(set(firsts))  # each in one stretch


def test_large_groups_do_not_come_first() -> None:
    lists = [[0]] * 10 + [[i] for i in range(1, 41)]
    places = [_plan(lists, ByDocument(1), seed=0, epoch=epoch).index([0]) for epoch in range(40)]
    assert 12 < np.mean(places) < 28  # 20 where it is as likely anywhere; 4 where it tends to come first


def test_what_by_document_cannot_do_is_refused() -> None:
    with pytest.raises(RecipeError, match="size is 0"):
        ByDocument(0)
    with pytest.raises(RecipeError, match="fill no batch"):
        _plan([[1], [2]], ByDocument(3, drop_last=True))


@settings(max_examples=80, deadline=None)
@given(lists=_LISTS, size=st.integers(1, 12), repeats=st.booleans(), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_lists_of_like_length_travel_together(lists, size, repeats, seed, epoch) -> None:
    batches = _plan(lists, ByLength(size, repeats), seed=seed, epoch=epoch)
    assert sorted(query for batch in batches for query in batch) == list(range(len(lists)))
    for batch in batches:
        docs = [doc for query in batch for doc in lists[query]]
        assert repeats or len(docs) == len(set(docs))
    if repeats:  # in order of length the batches follow each other without overlap
        spans = sorted((min(len(lists[q]) for q in b), max(len(lists[q]) for q in b)) for b in batches)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
        assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)


def test_batches_of_like_length_come_in_random_order() -> None:
    lists = [[100 * i + j for j in range(i % 10)] for i in range(400)]
    lengths = [[len(lists[b[0]]) for b in _plan(lists, ByLength(8), epoch=epoch)] for epoch in range(30)]
    means = np.mean(lengths, axis=0)
    assert len(set(map(tuple, lengths))) == 30
    assert np.abs(means - 4.5).max() < 5 * np.std(lengths) / 30**0.5
    mates = {tuple(sorted(next(b for b in _plan(lists, ByLength(8), epoch=epoch) if 7 in b))) for epoch in range(9)}
    assert len(mates) == 9  # ties of length are broken anew


@pytest.mark.parametrize("kind", [Shuffled, ByDocument, ByLength])
def test_epochs_and_seeds_differ(kind) -> None:
    lists = [[i] for i in range(50)]
    made = [str(_plan(lists, kind(8), seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(made)) == 4
    assert made[0] == str(_plan(lists, kind(8)))


def test_drop_last_leaves_out_small_batches() -> None:
    lists = [[i] for i in range(50)]
    assert [len(batch) for batch in _plan(lists, Shuffled(8, drop_last=True))] == [8] * 6
    with pytest.raises(RecipeError, match="50 queries fill no batch of 64"):
        _plan(lists, Shuffled(64, drop_last=True))
    with pytest.raises(RecipeError):
        _plan([], Shuffled(4))


def test_time_does_not_explode_when_all_share_a_document() -> None:
    lists = [[0, i + 1] for i in range(20_000)]
    begin = time.process_time()
    assert len(_plan(lists, Shuffled(32))) == 20_000
    assert time.process_time() - begin < 5


def test_a_plan_is_flat() -> None:
    plan = EpochPlan.of([[3, 1], [2]])
    assert (plan.order.tolist(), plan.offsets.tolist(), len(plan)) == ([3, 1, 2], [0, 2, 3], 2)
    assert plan.order.dtype == plan.offsets.dtype == np.int64


@pytest.mark.parametrize("size", [0, -3, 2.0, True])
def test_the_size_is_checked(size: object) -> None:
    with pytest.raises(RecipeError, match="give a whole number of 1 or more"):
        Shuffled(size)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"ByLength\.size"):
        ByLength(size)  # type: ignore[arg-type]
