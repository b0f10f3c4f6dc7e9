"""Fused runs against a plain-dict float64 reference and ranx; tuning; self-hits."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import DataError, NonFiniteError, UsageError
from rankwright.search import Fuse, fuse, tune_fusion, without_self
from rankwright.types import Qrels, Run

METHODS = ("rrf", "sum", "mnz", "anz", "max", "min", "med")
NORMS = ("min-max", "z-score", "rank", "none")
IDS = ("d1", "d2", "d10", "é", "z", "Z", "a b"[0], "q2", "\U0001f600", "\ufb01")
QUERIES = ("q1", "q2", "q3", "q10")
Table = dict[str, dict[str, float]]
TABLES = st.dictionaries(
    st.sampled_from(QUERIES),
    st.dictionaries(st.sampled_from(IDS), st.integers(-24, 24).map(lambda n: n / 8), min_size=1),
)


def ranked(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda doc: (scores[doc], doc.encode()), reverse=True)


def normalised(scores: dict[str, float], spec: Fuse) -> dict[str, float]:
    values, order = list(scores.values()), ranked(scores)
    if spec.method == "rrf":
        return {doc: 1 / (spec.k + rank) for rank, doc in enumerate(order, start=1)}
    if spec.norm == "rank":
        return {doc: 1 - place / len(order) for place, doc in enumerate(order)}
    if spec.norm == "none":
        return scores
    if spec.norm == "z-score":
        zero, unit = statistics.fmean(values), statistics.pstdev(values)
    else:
        zero, unit = min(values), max(values) - min(values)
    return {doc: (score - zero) / max(unit, 1e-9) for doc, score in scores.items()}


def reference(tables: list[Table], spec: Fuse) -> Table:
    combine = {
        "rrf": math.fsum, "sum": math.fsum, "mnz": lambda v: math.fsum(v) * len(v), "anz": statistics.fmean,
        "max": max, "min": min, "med": statistics.median,
    }[spec.method]  # fmt: skip
    fused: Table = {}
    for query in dict.fromkeys(query for table in tables for query in table):
        found: dict[str, list[float]] = {}
        for table, weight in zip(tables, spec.weights or [1.0] * len(tables)):
            for doc, score in (normalised(table[query], spec) if query in table else {}).items():
                found.setdefault(doc, []).append(weight * score)
        fused[query] = {doc: combine(values) for doc, values in found.items()}
    return fused


@st.composite
def cases(draw):
    tables = draw(st.lists(TABLES, min_size=2, max_size=4))
    method = draw(st.sampled_from(METHODS))
    norm = draw(st.sampled_from((None, *NORMS))) if method != "rrf" else None
    weights = None
    if method in ("rrf", "sum", "mnz") and draw(st.booleans()):
        weights = tuple(draw(st.lists(st.integers(1, 8).map(float), min_size=len(tables), max_size=len(tables))))
    return tables, Fuse(method, norm, weights, draw(st.sampled_from((0, 1, 60))))


@settings(max_examples=150)
@given(cases(), st.sampled_from((1, 5, 1 << 14)))
def test_equals_the_plain_reference(case, rows):
    tables, spec = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rankwright.search.runs._ROWS", rows)
        fused = fuse([Run.from_dict(table) for table in tables], spec)
    expected = reference(tables, spec)
    assert list(fused.queries) == list(expected)
    for query, docs, scores in fused:
        assert dict(zip(docs, scores)) == pytest.approx(expected[query], abs=1e-6, rel=1e-9)  # 1e-9 is the least unit
        assert ranked(dict(zip(docs, scores.tolist()))) == docs


@settings(max_examples=60)
@given(cases(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_of_runs_and_rows_and_the_cut_change_no_bit(case, random, depth):
    tables, spec = case
    before = fuse([Run.from_dict(table) for table in tables], spec).to_dict()
    order = random.sample(range(len(tables)), len(tables))
    weights = None if spec.weights is None else tuple(spec.weights[i] for i in order)
    shuffled = [{q: dict(random.sample(list(d.items()), len(d))) for q, d in tables[i].items()} for i in order]
    if spec.norm != "z-score":  # whose mean is a sum in the order of the rows
        again = fuse([Run.from_dict(table) for table in shuffled], Fuse(spec.method, spec.norm, weights, spec.k))
        assert again.to_dict() == before
    cut = fuse([Run.from_dict(table) for table in tables], spec, depth=depth)
    assert cut.to_dict() == {query: dict(list(docs.items())[:depth]) for query, docs in before.items()}
    assert cut.ranked().to_dict() == cut.to_dict()


@pytest.mark.oracle
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "none"])
def test_as_ranx(method, norm):
    ranx = pytest.importorskip("ranx")
    if method == "rrf" and norm != "min-max":
        pytest.skip("rrf takes no norm")
    draw = np.random.default_rng(0)
    tables = [
        {f"q{q}": {f"d{d}": float(s) for d, s in zip(draw.permutation(40)[:25], draw.random(25))} for q in range(5)}
        for _ in range(3)
    ]
    names = {"rrf": "rrf", "sum": "wsum"}
    theirs = {"min-max": "min-max", "z-score": "zmuv", "rank": "rank"}[norm]
    weights = (0.5, 0.25, 1.0) if method == "sum" else None
    fused = ranx.fuse(
        runs=[ranx.Run(table) for table in tables], norm=None if method == "rrf" else theirs,
        method=names.get(method, method), params={"weights": list(weights)} if weights else None,
    )  # fmt: skip
    spec = Fuse(method, None if method == "rrf" else norm, weights)
    ours = fuse([Run.from_dict(table) for table in tables], spec).to_dict()
    for query, docs in fused.to_dict().items():
        assert ours[query] == pytest.approx(dict(docs), abs=1e-9)


def test_by_hand():
    """Cormack et al.'s sum with k = 60, and Fox and Shaw's CombSUM and CombMNZ of scores from 0 to 1."""
    a, b = Run.from_dict({"q": {"x": 9.0, "y": 5.0, "z": 1.0}}), Run.from_dict({"q": {"y": 0.8, "w": 0.4}})
    assert fuse([a, b]).to_dict()["q"] == {"y": 1 / 62 + 1 / 61, "x": 1 / 61, "w": 1 / 62, "z": 1 / 63}
    assert fuse([a, b], Fuse("sum")).to_dict()["q"] == {"y": 1.5, "x": 1.0, "z": 0.0, "w": 0.0}
    assert fuse([a, b], Fuse("mnz")).to_dict()["q"] == {"y": 3.0, "x": 1.0, "z": 0.0, "w": 0.0}
    assert fuse([a, b], Fuse("sum", weights=(1, 3))).to_dict()["q"] == {"y": 3.5, "x": 1.0, "z": 0.0, "w": 0.0}
    assert fuse([a, b], Fuse("min")).to_dict()["q"]["y"] == 0.5


def test_a_query_of_one_run_is_fused_from_that_run():
    a, b = Run.from_dict({"q1": {"x": 2.0, "y": 1.0}}), Run.from_dict({"q2": {"x": 7.0}, "q1": {"y": 3.0}})
    fused = fuse([a, b], Fuse("sum", "none"))
    assert fused.to_dict() == {"q1": {"y": 4.0, "x": 2.0}, "q2": {"x": 7.0}}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fuse("borda"),  # pyright: ignore[reportArgumentType]
        lambda: Fuse("sum", "sigmoid"),  # pyright: ignore[reportArgumentType]
        lambda: Fuse("rrf", "rank"),
        lambda: Fuse(k=-1),
        lambda: Fuse(k=math.nan),
        lambda: Fuse("max", weights=(1, 2)),
        lambda: Fuse("sum", weights=(0, 0)),
        lambda: Fuse("sum", weights=(-1, 2)),
        lambda: Fuse("sum", weights=(1, math.inf)),
        lambda: fuse([Run.from_dict({"q": {"d": 1.0}})]),
        lambda: fuse([Run.from_dict({"q": {"d": 1.0}})] * 2, Fuse("sum", weights=(1, 2, 3))),
        lambda: fuse([Run.from_dict({"q": {"d": 1.0}})] * 2, depth=0),
        lambda: tune_fusion([Run.from_dict({"q": {"d": 1.0}})] * 2, QRELS, Fuse("med")),
        lambda: tune_fusion([Run.from_dict({"q": {"d": 1.0}})] * 6, QRELS, Fuse("sum")),
    ],
)
def test_refuses_what_does_not_fit(make):
    with pytest.raises(UsageError):
        make()


def test_refuses_runs_that_contradict_themselves():
    good = Run.from_dict({"q": {"d": 1.0, "e": 2.0}})
    twice = Run.from_rows(["q", "q"], ["d", "d"], [1.0, 2.0])
    with pytest.raises(DataError, match=r"run 2 has document 'd' twice"):
        fuse([good, twice])
    with pytest.raises(DataError, match="query twice"):
        fuse([Run(("q", "q"), ("d",), np.array([0, 1, 2]), np.array([0, 0]), np.ones(2)), good])
    for score in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="run 2: a score of query 'q'"):
            fuse([good, Run.from_dict({"q": {"d": score}})])
    with pytest.raises(NonFiniteError, match="too large"):
        fuse([good, Run.from_dict({"q": {"d": 1e308, "e": -1e308}})], Fuse("sum"))


# --- tuning -------------------------------------------------------------------------------------------------------

QRELS = Qrels.from_dict({"q": {"d": 1}})


def test_tuning_finds_the_run_that_is_right():
    queries = [f"q{i}" for i in range(8)]
    right = {q: {f"d{q}": 3.0, "x": 2.0, "y": 1.0} for q in queries}
    wrong = {q: {"x": 3.0, "y": 2.9, f"d{q}": 1.0} for q in queries}
    runs = [Run.from_dict(wrong | {"other": {"x": 1.0}}), Run.from_dict(right)]
    qrels = Qrels.from_dict({q: {f"d{q}": 1} for q in queries})
    tuned = tune_fusion(runs, qrels, Fuse("sum"), measure="RR@10")
    assert len(tuned.tried) == 11
    assert tuned.spec.weights == (0.3, 0.7)  # from there on all are right, and it is the nearest to equal
    assert tuned.value == 1.0 == max(tuned.tried.values())
    assert tuned.tried[Fuse("sum", weights=(0.5, 0.5))] < 1
    assert tune_fusion(runs, qrels, Fuse("rrf")).spec.k == 60  # no k can tell: the usual one


def test_three_runs_share_ten_tenths():
    run = Run.from_dict({"q": {"d": 1.0}})
    tried = tune_fusion([run] * 3, QRELS, Fuse("mnz")).tried
    assert len(tried) == 66
    assert all(spec.weights is not None and sum(spec.weights) == pytest.approx(1) for spec in tried)
    assert next(iter(tried)).weights == (0.3, 0.3, 0.4)


# --- self-hits ----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(TABLES, st.none() | st.integers(1, 3))
def test_without_self_drops_the_query_itself_and_nothing_else(table, depth):
    table = {query: {query: 9.0} | docs for query, docs in table.items()}
    left = without_self(Run.from_dict(table), depth=depth)
    expected = {q: [doc for doc in ranked(docs) if doc != q][:depth] for q, docs in table.items()}
    assert {q: sorted(docs) for q, docs, _ in left} == {q: sorted(docs) for q, docs in expected.items()}
