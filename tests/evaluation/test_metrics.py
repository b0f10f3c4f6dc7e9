"""Measures against trec_eval (pytrec_eval), ir-measures' names, a plain reference, published values and themselves."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankwright.evaluation import Measure, Scores, evaluate, parse
from rankwright.types import Qrels, Run

SHARED = Path(__file__).parents[3] / "shared" / "data"

# ours -> pytrec_eval's name and relevance level
TREC = {
    "nDCG@1": ("ndcg_cut_1", 1),
    "nDCG@3": ("ndcg_cut_3", 1),
    "nDCG@10": ("ndcg_cut_10", 1),
    "nDCG": ("ndcg", 1),
    "RR": ("recip_rank", 1),
    "RR(rel=2)": ("recip_rank", 2),
    "R@2": ("recall_2", 1),
    "R(rel=2)@5": ("recall_5", 2),
    "R@1000": ("recall_1000", 1),
    "P@3": ("P_3", 1),
    "P(rel=2)@5": ("P_5", 2),
    "AP": ("map", 1),
    "AP(rel=2)": ("map", 2),
    "AP@3": ("map_cut_3", 1),
    "AP(rel=2)@100": ("map_cut_100", 2),
    "Success@1": ("success_1", 1),
    "Success(rel=3)@5": ("success_5", 3),
}
OWN = ["RR@2", "RR(rel=2)@10", "nDCG(dcg='exp-log2')@3", "nDCG(dcg='exp-log2')", "Judged@3", "Judged"]

# ids that tell byte order from other orders: lengths, cases, accents, beyond the basic plane
IDS = ["d1", "d10", "d2", "D2", "Z", "a", "é", "ﬀ", "𝔸", "漢", "0", "00", "~"]
ASKED = ["q1", "q2", "q3", "q10"]
GRADES = st.sampled_from([-1, 0, 0, 1, 1, 2, 3])
Table = dict[str, dict[str, float]]


def tables(scores: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Table, Table]]:
    """(run, judgements) with ties, unjudged documents, missing and extra queries, negative grades.

    At least one grade of a query is not negative: trec_eval reads unset memory otherwise (see its own test below).
    """
    graded = st.dictionaries(st.sampled_from(IDS), GRADES, min_size=1).filter(lambda g: max(g.values()) >= 0)
    ranked = st.dictionaries(st.sampled_from(IDS), scores, min_size=1)
    run = st.dictionaries(st.sampled_from([*ASKED, "extra"]), ranked)
    judged = st.dictionaries(st.sampled_from(ASKED), graded, min_size=1)
    return st.tuples(run, judged).filter(lambda both: not both[0] or bool(set(both[0]) & set(both[1])))


EIGHTHS = st.integers(-8, 8).map(lambda i: i / 8)
ANY_SCORE = st.one_of(EIGHTHS, st.floats(allow_nan=False), st.sampled_from([30.0, 30.0000001, -0.0, 0.0]))


def measured(run: Table, judged: Table, measures: Sequence[str | Measure], compat="trec10") -> Scores:
    return evaluate(Run.from_dict(run), Qrels.from_dict(judged), measures, compat=compat)


def trec_values(run: Table, judged: Table, query: str) -> dict[str, float]:
    """trec_eval's value of each of TREC for one query; 0 where the run lacks the query, as with -c."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    values = {}
    for name, (theirs, level) in TREC.items():
        base, _, cutoff = theirs.rpartition("_")
        wanted = f"{base}.{cutoff}" if cutoff.isdigit() else theirs
        evaluator = pytrec_eval.RelevanceEvaluator({query: judged[query]}, {wanted}, relevance_level=level)
        values[name] = evaluator.evaluate({query: run[query]})[query][theirs] if query in run else 0.0
    return values


def reference(measure: Measure, ranking: dict[str, float], judged: dict[str, float]) -> float:
    """One value, straight from the definition, in plain Python."""
    order = sorted(ranking, key=lambda doc: (ranking[doc], doc.encode()), reverse=True)
    cutoff = measure.cutoff or max(len(order), len(judged), 1)
    grades = [judged.get(doc, -math.inf) for doc in order[:cutoff]]
    relevant = [grade >= measure.rel for grade in grades]
    everything = sum(grade >= measure.rel for grade in judged.values())

    def dcg(ordered: Sequence[float]) -> float:
        gains = [(g if measure.dcg == "log2" else 2**g - 1) if g > 0 else 0 for g in ordered]
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))

    ideal = dcg(sorted(judged.values(), reverse=True)[:cutoff])
    precisions = [sum(relevant[:rank]) / rank for rank, hit in enumerate(relevant, 1) if hit]
    return {
        "nDCG": lambda: dcg(grades) / ideal if ideal else 0.0,
        "RR": lambda: 1 / (relevant.index(True) + 1) if any(relevant) else 0.0,
        "R": lambda: sum(relevant) / everything if everything else 0.0,
        "P": lambda: sum(relevant) / cutoff,
        "AP": lambda: sum(precisions) / everything if everything else 0.0,
        "Success": lambda: float(any(relevant)),
        "Judged": lambda: sum(doc in judged for doc in order[:cutoff]) / len(grades) if grades else 0.0,
    }[measure.name]()


def assert_as_trec_eval(run: Table, judged: Table, compat="trec9") -> None:
    scores = measured(run, judged, list(TREC), compat)
    expected = np.array([list(trec_values(run, judged, query).values()) for query in scores.queries])
    assert np.abs(scores.values - expected).max() <= 1e-12
    assert [f"{x:.4f}" for x in scores.mean().values()] == [f"{x:.4f}" for x in expected.mean(axis=0)]
    answered = expected[[query in run for query in scores.queries]]
    means = answered.mean(axis=0) if len(answered) else np.zeros(len(TREC))
    assert list(scores.mean_of_answered().values()) == pytest.approx(means.tolist(), abs=1e-12)


# --- against others -----------------------------------------------------------------------------------------------


@pytest.mark.oracle
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(EIGHTHS))
def test_as_trec_eval_where_float32_holds_the_scores(both):
    assert_as_trec_eval(*both, compat="trec10")


@pytest.mark.oracle
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(ANY_SCORE))
def test_as_trec_eval_9_with_any_score(both):
    assert_as_trec_eval(*both, compat="trec9")


@pytest.mark.oracle
@pytest.mark.soak
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(ANY_SCORE))
def test_as_trec_eval_9_ten_thousand_times(both):
    assert_as_trec_eval(*both, compat="trec9")


@pytest.mark.oracle
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(EIGHTHS), st.sampled_from((None, 1, 3, 10)))
def test_exponential_gain_as_trec_eval_with_its_gains_changed(both, cutoff):
    """trec_eval's nDCG of the gains 2^grade - 1 in place of the grades (Burges et al. 2005)."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    run, judged = both
    gains = {q: {d: 2 ** max(int(g), 0) - 1 for d, g in docs.items()} for q, docs in judged.items()}
    graded = {q: {d: float(int(g)) for d, g in docs.items()} for q, docs in judged.items()}
    theirs = "ndcg" if cutoff is None else f"ndcg_cut.{cutoff}"
    found = pytrec_eval.RelevanceEvaluator(gains, {theirs}).evaluate(run)
    name = "nDCG(dcg='exp-log2')" + ("" if cutoff is None else f"@{cutoff}")
    scores = measured(run, graded, [name])
    for query, value in zip(scores.queries, scores.values[:, 0].tolist()):
        expected = found.get(query, {}).get(theirs.replace(".", "_"), 0.0)
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.oracle
def test_deep_learning_measures_as_ir_measures():
    """What TREC Deep Learning reports, by name: linear gain, binary measures from grade 2."""
    ir_measures = pytest.importorskip("ir_measures")
    names = ["nDCG@10", "nDCG@3", "AP(rel=2)", "AP(rel=2)@100", "RR(rel=2)@10", "R(rel=2)@20", "P(rel=2)@5", "P@5"]
    draw = np.random.default_rng(19)
    run = {f"q{q}": {f"d{d}": float(s) for d, s in enumerate(draw.permutation(30))} for q in range(6)}
    judged = {f"q{q}": {f"d{d}": int(g) for d, g in enumerate(draw.integers(0, 4, 25))} for q in range(6)}
    theirs = {
        str(m): v for m, v in ir_measures.calc_aggregate(map(ir_measures.parse_measure, names), judged, run).items()
    }
    assert measured(run, {q: {d: float(g) for d, g in docs.items()} for q, docs in judged.items()}, names).mean() == (
        pytest.approx(theirs, abs=1e-12)
    )


@settings(max_examples=150, deadline=None)
@given(tables(ANY_SCORE))
def test_as_the_definition_in_float64(both):
    run, judged = both
    measures = parse([*TREC, *OWN])
    scores = measured(run, judged, measures)
    for query, row in zip(scores.queries, scores.values):
        expected = [reference(measure, run[query], judged[query]) if query in run else 0.0 for measure in measures]
        assert row.tolist() == pytest.approx(expected, abs=1e-12)


def test_prints_what_trec_eval_10_prints():
    """Stored output of a trec_eval 10 (-c, levels 1 and 2); the scores differ by less than float32 can hold."""
    run = {f"q{q}": {f"d{i}": 30 + (7 * i + 11 * q) % 4 * 0.5 + (5 * i + q) % 3 * 1e-8 for i in range(q + 1, q + 18)}
           for q in range(8) if q != 6}  # fmt: skip
    judged = {f"q{q}": {f"d{i}": (3 * i + 5 * q) % 7 // 2 - 1 for i in range(0, 30, 2)} for q in range(7)}
    golden = {
        "AP": "0.1562", "RR": "0.3299", "P@5": "0.1429", "R@5": "0.1088", "nDCG": "0.2996", "nDCG@5": "0.1265",
        "nDCG@10": "0.2270", "AP@10": "0.1100", "Success@1": "0.1429", "AP(rel=2)": "0.1110", "RR(rel=2)": "0.1791",
        "P(rel=2)@5": "0.0571", "R(rel=2)@5": "0.1429", "AP(rel=2)@10": "0.0955", "Success(rel=2)@1": "0.0000",
    }  # fmt: skip
    assert {name: f"{value:.4f}" for name, value in measured(run, judged, list(golden)).mean().items()} == golden
    float32 = measured(run, judged, list(golden), "trec9").mean()
    assert f"{float32['AP']:.4f}" == "0.1658"


def deep_learning_track(system: str, year: str) -> tuple[Run, Qrels]:
    with (SHARED / "trec-dl-passage" / "qrels" / f"{year}.tsv").open(encoding="utf-8") as file:
        judged = [*csv.reader(file, delimiter="\t")][1:]
    with gzip.open(SHARED / "trec-dl-passage" / "runs" / f"{system}.{year}.trec.gz", "rt", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    run = Run.from_rows([x[0] for x in lines], [x[2] for x in lines], [float(x[4]) for x in lines])
    return run, Qrels.from_rows([x[0] for x in judged], [x[1] for x in judged], [float(x[2]) for x in judged])


@pytest.mark.skipif(not (SHARED / "trec-dl-passage").exists(), reason="needs the shared data")
@pytest.mark.parametrize(
    ("system", "year", "ndcg", "rr", "rr_msmarco", "recall"),
    [
        ("bm25", "dl19", 0.5121, 0.7138, 0.7138, 0.4988),
        ("bm25", "dl20", 0.4769, 0.6653, 0.6653, 0.5623),
        ("colbert", "dl19", 0.7320, 0.8671, 0.8632, 0.6664),
        ("colbert", "dl20", 0.7245, 0.8297, 0.8298, 0.7614),
    ],
)
def test_trec_deep_learning_track(system, year, ndcg, rr, rr_msmarco, recall):
    """The published RR@10 is that of MS MARCO's script: ties, which colbert's 16-bit scores have, by id *ascending*."""
    run, qrels = deep_learning_track(system, year)
    scores = evaluate(run, qrels, ["nDCG@10", "RR(rel=2)@10", "R(rel=2)@100"])
    assert [round(value, 4) for value in scores.mean().values()] == [ndcg, rr, recall]
    ascending = Run.from_dict(
        {
            q: {d: -i for i, d in enumerate(sorted(docs, key=lambda d: (-docs[d], d)))}
            for q, docs in run.to_dict().items()
        }
    )
    assert round(evaluate(ascending, qrels, ["RR(rel=2)@10"]).mean()["RR(rel=2)@10"], 4) == rr_msmarco


# --- against themselves -------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(tables(ANY_SCORE), st.randoms(use_true_random=False))
def test_line_order_changes_nothing(both, random):
    run, judged = both
    lines = [(q, d, s) for q, docs in run.items() for d, s in docs.items()]
    random.shuffle(lines)
    shuffled = Run.from_rows(*zip(*lines)) if lines else Run.from_rows([], [], [])
    grades = [(q, d, g) for q, docs in judged.items() for d, g in docs.items()]
    random.shuffle(grades)
    before = measured(run, judged, [*TREC, *OWN])
    after = evaluate(shuffled, Qrels.from_rows(*zip(*grades)), [*TREC, *OWN])
    assert {q: row.tolist() for q, row in zip(before.queries, before.values)} == {
        q: row.tolist() for q, row in zip(after.queries, after.values)
    }


@settings(max_examples=100, deadline=None)
@given(tables(ANY_SCORE))
def test_monotone_score_maps_and_order_preserving_renames_change_nothing(both):
    run, judged = both
    place = {score: float(i) for i, score in enumerate(sorted({s for docs in run.values() for s in docs.values()}))}
    mapped = {q: {f"doc/{d}": place[s] for d, s in docs.items()} for q, docs in run.items()}
    renamed = {q: {f"doc/{d}": g for d, g in docs.items()} for q, docs in judged.items()}
    after = measured(mapped, renamed, [*TREC, *OWN])
    assert np.array_equal(after.values, measured(run, judged, [*TREC, *OWN]).values)


@settings(max_examples=100, deadline=None)
@given(tables(EIGHTHS))
def test_a_perfect_run_is_worth_one_and_no_run_leaves_zero_to_one(both):
    run, judged = both
    values = measured(run, judged, [*TREC, *OWN]).values
    assert ((values >= 0) & (values <= 1)).all()
    graded = ["nDCG@3", "nDCG", "nDCG(dcg='exp-log2')@3", "RR", "R@1000", "AP", "Success@1", "Judged"]
    scores = measured(judged, judged, graded)
    for query, row in zip(scores.queries, scores.values):
        worth = float(max(judged[query].values()) > 0)
        assert row.tolist() == pytest.approx([worth] * (len(graded) - 1) + [1.0])


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(ASKED), st.dictionaries(st.sampled_from(IDS), EIGHTHS | st.just(math.inf))),
    st.none() | st.integers(1, 5),
    st.booleans(),
)
def test_ranked_is_the_plain_sort(table, depth, in_order):
    def key(item):
        return item[1], item[0].encode()

    expected = {query: dict(sorted(docs.items(), key=key, reverse=True)) for query, docs in table.items() if docs}
    run = Run.from_dict(expected if in_order else table)
    if depth is not None:
        expected = {query: dict(list(docs.items())[:depth]) for query, docs in expected.items()}
    ranked = run.ranked(depth)
    assert [(q, list(d.items())) for q, d in ranked.to_dict().items()] == [
        (q, list(d.items())) for q, d in expected.items()
    ]


@settings(max_examples=60, deadline=None)
@given(tables(EIGHTHS))
def test_ranking_as_run_ranked(both):
    run, judged = both
    given_order = evaluate(Run.from_dict(run), Qrels.from_dict(judged), [*TREC])
    trec_order = Run.from_dict(run).ranked()
    falling = Run(
        trec_order.queries, trec_order.docs, trec_order.offsets, trec_order.columns, -np.arange(len(trec_order))
    )
    assert np.array_equal(evaluate(falling, Qrels.from_dict(judged), [*TREC]).values, given_order.values)


@settings(max_examples=60, deadline=None)
@given(tables(EIGHTHS), st.integers(1, 12))
def test_block_size_changes_nothing(both, cells):
    run, judged = both
    with pytest.MonkeyPatch.context() as patch:
        before = measured(run, judged, [*TREC, *OWN]).values
        patch.setattr("rankwright.evaluation.metrics._CELLS", cells)
        assert np.array_equal(measured(run, judged, [*TREC, *OWN]).values, before)
