"""Paired tests, intervals and corrections against scipy, enumeration and hand-worked examples."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import UsageError
from rankwright.evaluation import (
    Difference,
    Scores,
    bootstrap_interval,
    compare,
    compare_pairs,
    holm,
    paired_t,
    per_query_differences,
    randomisation,
)

stats = pytest.importorskip("scipy.stats")

MILLIONTHS = st.integers(0, 10**6).map(lambda i: i / 10**6)
VALUES = st.lists(st.tuples(MILLIONTHS, MILLIONTHS), min_size=2, max_size=40)
COARSE = st.lists(st.tuples(*[st.integers(0, 4).map(lambda i: i / 4)] * 2), min_size=1, max_size=10)


def pair(rows):
    return np.array([a for a, _ in rows]), np.array([b for _, b in rows])


def noisy(n, shift, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.uniform(size=n)
    return a, a + shift + 0.3 * rng.standard_normal(n)


def scores(**columns):
    """Scores by query names q0, q1 ... from one list a measure (keyword R5 is measure R@5)."""
    names = tuple(name[0] + "@" + name[1:] for name in columns)
    values = np.array(list(columns.values()), np.float64).T
    return Scores(names, tuple(f"q{i}" for i in range(len(values))), values)


# --- paired t -----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_paired_t_as_scipy(rows):
    a, b = pair(rows)
    ours = paired_t(a, b)
    spread = np.ptp(b - a)
    if spread <= 1e-6 * np.abs(b - a).max():
        return  # scipy's own precision ends here
    theirs = stats.ttest_rel(b, a)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-9)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.difference == pytest.approx((b - a).mean())


def test_paired_t_without_spread():
    assert paired_t([0.1, 0.7, 0.3], [0.1, 0.7, 0.3]) == (0.0, 1.0, 0.0)
    assert paired_t([0.1, 0.7, 0.3], [0.2, 0.8, 0.4])[:2] == (math.inf, 0.0)
    assert paired_t([0.2, 0.8, 0.4], [0.1, 0.7, 0.3])[:2] == (-math.inf, 0.0)


# --- randomisation ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(COARSE)
def test_randomisation_enumerates_small_samples(rows):
    a, b = pair(rows)
    d = b - a
    sums = [abs(sum(s * x for s, x in zip(signs, d))) for signs in itertools.product((1, -1), repeat=len(d))]
    expected = np.mean(np.array(sums) >= abs(d.sum()) - 1e-9)
    ours = randomisation(a, b)
    assert ours.p == pytest.approx(expected, abs=1e-12)
    assert ours.difference == ours.statistic == pytest.approx(d.mean())


def test_randomisation_as_scipy():
    a, b = noisy(10, 0.2)
    theirs = stats.permutation_test(
        (b, a),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert randomisation(a, b).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_drawn_rounds_agree_with_all_rounds():
    a, b = noisy(15, 0.0, seed=3)
    exact = randomisation(a, b, rounds=2**15).p
    drawn = randomisation(a, b, rounds=2**15 - 1).p
    assert 0.01 < exact < 0.5
    assert drawn != exact
    assert abs(drawn - exact) < 4 * math.sqrt(exact * (1 - exact) / 2**15)


def test_drawn_rounds_depend_on_the_seed_alone():
    a, b = noisy(60, 0.05)
    first = randomisation(a, b, rounds=5_000, seed=7)
    np.random.seed(1)
    assert randomisation(a, b, rounds=5_000, seed=7) == first
    assert randomisation(a, b, rounds=5_000, seed=8).p != first.p


def test_drawn_rounds_never_give_zero_and_agree_with_t_on_many_queries():
    a, b = noisy(400, 0.4)
    assert randomisation(a, b, rounds=999).p == 1 / 1000
    a, b = noisy(400, 0.025, seed=5)
    assert randomisation(a, b, rounds=20_000).p == pytest.approx(paired_t(a, b).p, abs=0.02)


def test_equal_systems_are_not_different():
    assert randomisation([0.5] * 300, [0.5] * 300) == (0.0, 1.0, 0.0)


def test_sums_in_another_order_still_count_as_equal():
    d = np.array([0.1, 0.2, 0.3, 0.6])  # 0.1 + 0.2 + 0.3 - 0.6 is not 0 in binary
    assert randomisation(np.zeros(4), np.array([0.1, 0.2, 0.3, -0.6])).p == 1.0
    assert randomisation(np.zeros(4), d).p == 2 / 16


# --- interval -----------------------------------------------------------------------------------------------------


def test_bootstrap_interval_as_scipy_and_as_theory():
    values = np.random.default_rng(0).beta(2, 3, 300)
    low, high = bootstrap_interval(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    width = high - low
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.05 * width)
    assert width == pytest.approx(2 * 1.96 * values.std() / math.sqrt(300), rel=0.05)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_bootstrap_interval_depends_on_the_seed_alone():
    values = np.random.default_rng(0).uniform(size=50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert bootstrap_interval([0.25, 0.25]) == (0.25, 0.25)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.uniform(size=60), level=0.9, rounds=400, seed=trial)
        inside += low <= 0.5 <= high
    assert 0.84 <= inside / 300 <= 0.95


# --- Holm ---------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_rule_rejects(p, alpha):
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] * (len(p) - step) >= alpha:
            break
        rejected.add(i)
    assert {i for i, adjusted in enumerate(holm(p)) if adjusted < alpha} == rejected


# --- comparisons --------------------------------------------------------------------------------------------------


def test_compare_corrects_over_all_tests_of_the_call():
    rng = np.random.default_rng(0)
    base = rng.uniform(size=50)
    systems = {
        name: scores(R5=base + shift + 0.05 * rng.standard_normal(50), P5=base + 0.1 * rng.standard_normal(50))
        for name, shift in (("good", 0.1), ("same", 0.0))
    }
    made = compare(scores(R5=base, P5=base), systems, name="bm25")
    assert [(r.baseline, r.system, r.measure) for r in made] == [
        ("bm25", "good", "R@5"),
        ("bm25", "good", "P@5"),
        ("bm25", "same", "R@5"),
        ("bm25", "same", "P@5"),
    ]
    assert [r.p_holm for r in made] == holm([r.p for r in made])
    best = made.find("good", "R@5")
    assert best.p == paired_t(base, systems["good"].column("R@5")).p
    assert best.p_holm == pytest.approx(4 * best.p)
    assert best.p_holm < 1e-6
    assert best.interval[0] < best.difference < best.interval[1]
    assert best.difference == pytest.approx(best.system_mean - best.baseline_mean)
    assert best.interval == bootstrap_interval(systems["good"].column("R@5") - base)
    assert best.wins + best.ties + best.losses == 50


def test_the_other_way_round_is_the_same_with_the_sign_changed():
    a, b = noisy(30, 0.1)
    systems = {"a": scores(R5=a), "b": scores(R5=b)}
    for test in ("t", "randomisation"):
        there, back = compare_pairs(systems, [("a", "b"), ("b", "a")], test=test)
        assert there.p == pytest.approx(back.p)
        assert there.difference == pytest.approx(-back.difference)
        assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=0.02)
        assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)


def test_wins_ties_losses_and_per_query_differences():
    a, b = scores(R5=[0.1, 0.3, 0.3, 0.4]), scores(R5=[0.3, 0.1 + 0.2, 0.1, 0.9])
    (result,) = compare(a, {"b": b})
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)
    rows = per_query_differences(a, b, "Recall@5")
    assert [row.query for row in rows] == ["q3", "q0", "q1", "q2"]
    assert rows[0] == Difference("q3", 0.4, 0.9, 0.5)


def test_queries_are_paired_by_name():
    a, b = noisy(20, 0.1)
    straight, order = scores(R5=b), np.random.default_rng(0).permutation(20)
    mixed = Scores(straight.measures, tuple(straight.queries[i] for i in order), straight.values[order])
    assert compare(scores(R5=a), {"b": mixed}).results == compare(scores(R5=a), {"b": straight}).results
    with pytest.raises(UsageError, match="different queries: only one has 'q19'"):
        compare(scores(R5=a[:19]), {"b": straight})


def test_json_is_strict_json():
    a = scores(R5=[0.1, 0.2, 0.3])
    made = compare(a, {"better": scores(R5=[0.2, 0.3, 0.4]), "same": a})
    table = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert [row["statistic"] for row in table["results"]] == [None, 0.0]
    assert table["test"] == "t"
    assert table["results"][0]["interval"] == list(made.results[0].interval)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_t([0.1], [0.2]), "at least two"),
        (lambda: paired_t([0.1, 0.2], [0.2]), "2 and 1"),
        (lambda: paired_t([], []), "at least one"),
        (lambda: randomisation([0.1, math.nan], [0.2, 0.1]), "finite"),
        (lambda: randomisation([0.1], [0.2], rounds=0), "rounds"),
        (lambda: bootstrap_interval([]), "at least one"),
        (lambda: bootstrap_interval([0.1], level=95), "level"),
        (lambda: bootstrap_interval([0.1], rounds=0), "rounds"),
        (lambda: holm([1.5]), "between 0 and 1"),
        (lambda: holm([math.nan]), "between 0 and 1"),
        (lambda: compare(scores(R5=[1, 0]), {"baseline": scores(R5=[1, 0])}), "two systems are called 'baseline'"),
        (lambda: compare(scores(R5=[1, 0]), {"b": scores(R5=[1, 0])}, measures=["P@5"]), "P@5 was not measured"),
        (lambda: compare_pairs({"a": scores(R5=[1, 0])}, [("a", "b")]), "no system 'b'"),
        (lambda: compare_pairs({}, [], test="wilcoxon"), "no test 'wilcoxon'"),
        (lambda: compare(scores(R5=[1, 0]), {"b": scores(R5=[1, 0])}).find("c", "R@5"), "0 comparisons fit 'c'"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_nothing_to_compare_is_an_empty_comparison():
    assert len(compare(scores(R5=[1, 0]), {})) == 0
