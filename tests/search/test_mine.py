"""Mining against a plain loop written here, margin by margin, and what the report counts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import NonFiniteError, RecipeError, UsageError
from rankwright.search import Mine, mine
from rankwright.types import Qrels, Run

DOCS = [f"d{i}" for i in range(8)]
QUERIES = ["q0", "q1", "d0", "q3"]  # d0 is also a document


def reference(run, known, spec, positives):
    """Query by query, with dictionaries: negatives in rank order before the pick, and counts of what was dropped."""
    left, dropped, skipped = {}, {}, 0
    for query, scores in run.items():
        grades = known.get(query, {})
        relevant = [d for d, g in grades.items() if g > 0]
        limit, own = math.inf, [positives.get(query, {}).get(d) for d in relevant]
        own = [s for s in own if s is not None]
        if not relevant or (spec.needs_positive_scores and not own):
            skipped += 1
            continue
        if spec.margin is not None:
            limit = min(limit, min(own) - spec.margin)
        if spec.relative_margin is not None:
            limit = min(limit, min(own) - spec.relative_margin * abs(min(own)))
        left[query] = []
        for rank, doc in enumerate(sorted(scores, key=lambda d: (scores[d], d), reverse=True), start=1):
            if not spec.ranks[0] <= rank <= spec.ranks[1]:
                continue
            if doc in relevant:
                reason = "known relevant"
            elif spec.drop_self and doc == query:
                reason = "the query itself"
            elif spec.judged == "drop" and doc in grades:
                reason = "judged not relevant"
            elif scores[doc] > limit:
                reason = "too close to a relevant one"
            else:
                left[query].append(doc)
                continue
            dropped[reason] = dropped.get(reason, 0) + 1
    return left, dropped, skipped


@st.composite
def cases(draw):
    scores = st.dictionaries(st.sampled_from(DOCS), st.integers(-3, 6).map(float), min_size=1)
    run = draw(st.dictionaries(st.sampled_from(QUERIES), scores, min_size=1))
    grades = st.dictionaries(st.sampled_from([*DOCS, "elsewhere"]), st.integers(0, 2).map(float), min_size=1)
    known = draw(st.dictionaries(st.sampled_from([*QUERIES, "absent"]), grades))
    positives = draw(st.dictionaries(st.sampled_from(QUERIES), scores))
    first = draw(st.integers(1, 3))
    margin = st.none() | st.sampled_from([0.0, 0.5, 1.0, -1.0])
    spec = Mine(
        ranks=(first, first + draw(st.integers(0, 6))), per_query=draw(st.integers(1, 4)), margin=draw(margin),
        relative_margin=draw(margin), pick=draw(st.sampled_from(["top", "random"])), seed=draw(st.integers(0, 3)),
        judged=draw(st.sampled_from(["keep", "drop"])), drop_self=draw(st.booleans()),
    )  # fmt: skip
    return run, known, positives, spec


@settings(max_examples=150, deadline=None)
@given(cases())
def test_mining_is_what_the_loop_does(case):
    run, known, positives, spec = case
    mined, report = mine(Run.from_dict(run), Qrels.from_dict(known), spec, positives=Run.from_dict(positives))
    left, dropped, skipped = reference(run, known, spec, positives)
    found = {query: docs for query, docs, grades in mined if docs}
    assert {c for c, n in report.dropped.items() if n} == set(dropped)
    assert {reason: n for reason, n in report.dropped.items() if n} == dropped
    assert report.without_positive == skipped
    assert report.candidates == sum(dropped.values()) + sum(map(len, left.values()))
    assert report.mined == len(mined) == sum(map(len, found.values()))
    assert report.short == sum(len(docs) < spec.per_query for docs in left.values())
    assert report.not_in_run == sum(max(grades.values()) > 0 and query not in run for query, grades in known.items())
    assert set(mined.grades.tolist()) <= {0.0}
    for query, docs in left.items():
        if spec.pick == "top":
            assert found.get(query, []) == docs[: spec.per_query]
        else:
            picked = found.get(query, [])
            assert len(picked) == min(spec.per_query, len(docs))
            assert picked == [doc for doc in docs if doc in picked]  # in rank order
    for query, grades in known.items():
        assert not set(found.get(query, [])) & {doc for doc, grade in grades.items() if grade > 0}


def test_random_picks_depend_on_seed_and_query_alone():
    run = Run.from_dict({q: {f"d{i}": float(i) for i in range(40)} for q in ("a", "b")})
    known = Qrels.from_dict({"a": {"d1": 1}, "b": {"d1": 1}})

    def picked(seed, run=run):
        return {q: docs for q, docs, _ in mine(run, known, Mine(per_query=5, pick="random", seed=seed))[0]}

    assert picked(0) == picked(0)
    assert picked(0) != picked(1)
    assert picked(0)["a"] != picked(0)["b"]
    alone = Run.from_dict({"b": {f"d{i}": float(i) for i in range(40)}})
    assert picked(0, alone)["b"] == picked(0)["b"]
    drawn = {doc for seed in range(60) for doc in picked(seed)["a"]}
    assert drawn == {f"d{i}" for i in range(40)} - {"d1"}


def test_margins_count_from_the_lowest_relevant_document():
    run = Run.from_dict({"q": {"p": 0.9, "a": 0.85, "b": 0.78, "c": 0.7}})
    known, positives = Qrels.from_dict({"q": {"p": 1, "far": 1}}), Run.from_dict({"q": {"p": 0.9, "far": 0.8}})

    def left(**margins):
        return mine(run, known, Mine(**margins), positives=positives)[0].to_dict()["q"]

    assert list(left()) == ["a", "b", "c"]
    assert list(left(margin=0.0)) == ["b", "c"]
    assert list(left(margin=0.05)) == ["c"]
    assert list(left(relative_margin=0.05)) == ["c"]
    assert list(left(relative_margin=0.01)) == ["b", "c"]
    with pytest.raises(UsageError, match="margins need the scores"):
        mine(run, known, Mine(margin=0.1))


def test_a_report_says_what_happened():
    run = Run.from_dict({"q": {"p": 3.0, "a": 2.0, "b": 1.0}, "r": {"a": 1.0}})
    _, report = mine(run, Qrels.from_dict({"q": {"p": 1}, "s": {"p": 1}}), Mine(per_query=5))
    assert str(report).splitlines() == [
        "2 negatives for 1 queries",
        "dropped of 3 candidates: 1 known relevant",
        "1 queries found too few",
        "1 queries of the run have no known relevant document",
        "1 queries with a known relevant document are missing from the run",
    ]


def test_scores_must_be_finite():
    known = Qrels.from_dict({"q": {"p": 1}})
    with pytest.raises(NonFiniteError, match="query 'r' and document 'b' is nan"):
        mine(Run.from_dict({"q": {"a": 1.0}, "r": {"a": 2.0, "b": math.nan}}), known, Mine())
    with pytest.raises(NonFiniteError, match="query 'q' and document 'p' is inf"):
        mine(Run.from_dict({"q": {"a": 1.0}}), known, Mine(margin=0), positives=Run.from_dict({"q": {"p": math.inf}}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ranks": (0, 5)}, "ranks must be"), ({"ranks": (5, 4)}, "ranks must be"), ({"per_query": 0}, "per_query"),
        ({"margin": math.nan}, "margin must be a finite"), ({"relative_margin": math.inf}, "relative_margin"),
        ({"pick": "best"}, "pick is top or random"), ({"judged": "maybe"}, "judged is keep or drop"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(RecipeError, match=message):
        Mine(**wrong)


def test_nothing_to_mine():
    mined, report = mine(Run.from_dict({}), Qrels.from_dict({}), Mine())
    assert len(mined) == report.mined == report.queries == 0
