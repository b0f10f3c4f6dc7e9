"""Groups: pure functions of (candidates, seed, epoch) that never repeat a document."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import Group, OneRelevant, PerGrade, Random, Top, Window
from rankwright.errors import RecipeError
from rankwright.types import Candidates

_GROUPS = st.one_of(
    st.builds(Random, st.integers(1, 9)), st.builds(Top, st.integers(1, 9)), st.builds(OneRelevant, st.integers(0, 9)),
    st.builds(PerGrade, st.integers(1, 4)), st.builds(PerGrade, st.just({"3": 2, "0.5": 1, "0": 3})),
    st.builds(lambda a, n, k: Window((a, a + n), k), st.integers(1, 14), st.integers(0, 9), st.integers(1, 9)),
)  # fmt: skip
_TARGETS = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=12).filter(lambda t: max(t) > 0)


def _candidates(targets: list[float], query: str = "q") -> Candidates:
    return Candidates(query, [f"d{i}" for i in range(len(targets))], targets)


@settings(max_examples=200, deadline=None)
@given(group=_GROUPS, targets=_TARGETS, seed=st.integers(0, 2**32), epoch=st.integers(0, 99))
def test_a_list_is_part_of_the_candidates_and_pure(group: Group, targets: list[float], seed: int, epoch: int) -> None:
    candidates = _candidates(targets)
    example = group.choose(candidates, seed, epoch)
    group.choose(candidates, seed + 1, epoch)  # what else is drawn in between must not matter
    assert group.choose(_candidates(targets), seed, epoch) == example
    assert example.query == "q"
    assert len(set(example.docs)) == len(example.docs) > 0
    assert example.targets == [targets[int(doc[1:])] for doc in example.docs]


@settings(max_examples=100, deadline=None)
@given(targets=_TARGETS, size=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_top_takes_the_highest(targets: list[float], size: int, seed: int, epoch: int) -> None:
    assert Top(size).choose(_candidates(targets), seed, epoch).targets == sorted(targets, reverse=True)[:size]


@settings(max_examples=100, deadline=None)
@given(targets=_TARGETS, negatives=st.integers(0, 9), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_one_relevant_then_negatives(targets: list[float], negatives: int, seed: int, epoch: int) -> None:
    first, *others = OneRelevant(negatives).choose(_candidates(targets), seed, epoch).targets
    assert first > 0
    assert all(target <= 0 for target in others)
    assert len(others) == min(negatives, sum(target <= 0 for target in targets))


def test_relevant_documents_take_turns() -> None:
    candidates = _candidates([1, 0, 2, 0, 3, 1])
    used = [OneRelevant(1).choose(candidates, 3, epoch).docs[0] for epoch in range(8)]
    assert sorted(used[:4]) == ["d0", "d2", "d4", "d5"]
    assert used[:4] == used[4:]
    starts = {OneRelevant(1).choose(_candidates([1, 1, 1], query=f"q{i}"), 3, 0).docs[0] for i in range(20)}
    assert starts == {"d0", "d1", "d2"}  # queries do not all begin with their first one


@pytest.mark.parametrize("group", [Random(3), Top(3), OneRelevant(2)])
def test_draws_are_even_and_change_with_the_epoch(group: Group) -> None:
    candidates = _candidates([1.0] + [0.0] * 10)
    counts = Counter(doc for epoch in range(1000) for doc in group.choose(candidates, 0, epoch).docs)
    expected = 3 / 11 * 1000 if isinstance(group, Random) else 2 / 10 * 1000
    assert all(abs(counts[f"d{i}"] - expected) < 5 * expected**0.5 for i in range(1, 11))
    assert sum(counts.values()) == 3000


@settings(max_examples=150, deadline=None)
@given(targets=_TARGETS, seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_so_many_of_each_grade_highest_first(targets: list[float], seed: int, epoch: int) -> None:
    there = Counter(targets)
    for counts in (2, {3: 2, "1.0": 1, 0: 3}):
        wanted = dict.fromkeys(there, counts) if isinstance(counts, int) else {3.0: 2, 1.0: 1, 0.0: 3}
        chosen = PerGrade(counts).choose(_candidates(targets), seed, epoch).targets  # type: ignore[arg-type]
        if any(there[grade] for grade in wanted):
            assert Counter(chosen) == +Counter({g: min(n, there[g]) for g, n in wanted.items()})
            assert chosen == sorted(chosen, reverse=True)
        else:
            assert len(chosen) == min(6, len(targets))  # no list is empty


def test_within_a_grade_draws_are_even() -> None:
    candidates = _candidates([3.0, 2, 2, 2, 0, 0, 0, 0])
    counts = Counter(d for epoch in range(1200) for d in PerGrade({2: 1, 0: 2}).choose(candidates, 1, epoch).docs)  # type: ignore[dict-item]
    assert "d0" not in counts
    for docs, expected in (((1, 2, 3), 400), ((4, 5, 6, 7), 600)):
        assert all(abs(counts[f"d{i}"] - expected) < 5 * expected**0.5 for i in docs)


def test_counts_of_grades_are_checked_and_written_alike() -> None:
    assert PerGrade({3: 1, 0: 4}) == PerGrade({"3": 1, "0.0": 4})  # type: ignore[dict-item]
    for wrong, message in (({"high": 1}, "no grade"), ({"1": -1}, "0 or more"), ({"1": 0}, "no document"), (0, "1 or")):
        with pytest.raises(RecipeError, match=message):
            PerGrade(wrong)


@settings(max_examples=150, deadline=None)
@given(targets=_TARGETS, first=st.integers(1, 14), more=st.integers(0, 6), size=st.integers(1, 5))
def test_a_window_takes_only_its_ranks(targets: list[float], first: int, more: int, size: int) -> None:
    chosen = Window((first, first + more), size).choose(_candidates(targets), 3, 1).targets
    ranked = sorted(targets, reverse=True)
    window = ranked[first - 1 : first + more] or ranked[-1:]
    assert len(chosen) == min(size, len(window))
    assert not Counter(chosen) - Counter(window)
    assert chosen == sorted(chosen, reverse=True)


def test_ranks_within_a_window_are_even() -> None:
    candidates = _candidates([float(i) for i in range(20)])
    counts = Counter(doc for epoch in range(1000) for doc in Window((5, 10), 3).choose(candidates, 0, epoch).docs)
    assert set(counts) == {f"d{20 - rank}" for rank in range(5, 11)}
    assert all(abs(count - 500) < 5 * 250**0.5 for count in counts.values())


@pytest.mark.parametrize("ranks", [(0, 5), (6, 5), (1,), 7, (1, 2.5)])
def test_windows_are_checked(ranks: object) -> None:
    with pytest.raises(RecipeError):
        Window(ranks)  # type: ignore[arg-type]


def test_queries_and_seeds_draw_for_themselves() -> None:
    targets = [0.0] * 30 + [1.0]
    drawn = {tuple(Random(5).choose(_candidates(targets, query=q), seed, 0).docs) for q in "abc" for seed in (1, 2)}
    assert len(drawn) == 6


@pytest.mark.parametrize("value", [-1, 1.5, True, "8"])
def test_sizes_are_checked(value: object) -> None:
    for spec in (Random, Top, OneRelevant):
        with pytest.raises(RecipeError, match="give a whole number"):
            spec(value)  # type: ignore[arg-type]
    with pytest.raises(RecipeError):
        Random(0)
    assert OneRelevant(0).choose(_candidates([0, 1]), 0, 0).docs == ["d1"]
