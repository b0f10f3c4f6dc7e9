"""Every policy of docs/evaluation.md: ties, widths, missing and extra queries, bad values; and how scores are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from rankwright.errors import DataError, NonFiniteError, UsageError
from rankwright.evaluation import Scores, evaluate
from rankwright.types import Qrels, Run

Table = dict[str, dict[str, float]]


def measured(run: Table, judged: Table, measures: Sequence[str], compat="trec10") -> Scores:
    return evaluate(Run.from_dict(run), Qrels.from_dict(judged), measures, compat=compat)


# --- policies -----------------------------------------------------------------------------------------------------


def test_trec_eval_22_ties_go_to_the_larger_id_by_bytes():
    for first, second in [("d9", "d10"), ("b", "B"), ("é", "z"), ("𝔸", "ﬀ"), ("aa", "a")]:
        assert first.encode() > second.encode()
        scores = measured({"q": {second: 1.0, first: 1.0}}, {"q": {first: 1}}, ["RR"])
        assert scores.mean() == {"RR": 1.0}


def test_trec_eval_34_float_width():
    run, judged = {"q": {"a": 30.0000001, "b": 30.0}}, {"q": {"a": 1}}
    assert measured(run, judged, ["RR"]).mean() == {"RR": 1.0}
    assert measured(run, judged, ["RR"], "trec9").mean() == {"RR": 0.5}


def test_a_missing_query_counts_as_zero_and_is_reported_an_extra_one_is_ignored_and_reported():
    run = {"q1": {"a": 1.0}, "nobody asked": {"a": 1.0}}
    scores = measured(run, {"q1": {"a": 1}, "q2": {"a": 1}}, ["RR", "Judged@5"])
    assert (scores.queries, scores.missing, scores.extra) == (("q1", "q2"), ("q2",), ("nobody asked",))
    assert scores.mean() == {"RR": 0.5, "Judged@5": 0.5}
    assert scores.mean_of_answered() == {"RR": 1.0, "Judged@5": 1.0}
    assert scores.values.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_a_query_without_documents_is_as_missing_as_one_that_is_not_named():
    run = Run(("q1", "q2"), ("a",), np.array([0, 1, 1]), np.array([0], np.int32), np.array([1.0]))
    qrels = Qrels(("q0", "q1", "q2"), ("a",), np.array([0, 0, 1, 2]), np.array([0, 0], np.int32), np.array([1.0, 1.0]))
    scores = evaluate(run, qrels, ["RR"])
    assert (scores.queries, scores.missing, scores.extra) == (("q1", "q2"), ("q2",), ())
    assert scores.values.tolist() == [[1.0], [0.0]]


def test_an_empty_run_is_worth_nothing():
    scores = measured({}, {"q": {"a": 1}}, ["nDCG@10", "RR"])
    assert scores.missing == ("q",)
    assert scores.mean() == scores.mean_of_answered() == {"nDCG@10": 0.0, "RR": 0.0}


def test_queries_without_a_relevant_document_count_as_zero_and_are_reported():
    run = {"q1": {"a": 1.0}, "q2": {"a": 1.0}, "q3": {"a": 1.0}}
    scores = measured(run, {"q1": {"a": 0}, "q2": {"a": -1}, "q3": {"a": 1}}, ["nDCG", "AP", "R@5", "RR", "Judged"])
    assert scores.without_relevant == ("q1", "q2")
    assert scores.values.tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


def test_unjudged_is_the_share_of_the_first_ten():
    run = {"q1": {f"d{i}": -i for i in range(20)}, "q2": {"x": 1.0, "y": 0.0}}
    scores = measured(run, {"q1": {"d0": 1, "d9": 0, "d10": 1}, "q2": {"x": 1}, "q3": {"x": 1}}, ["nDCG@10"])
    assert scores.unjudged == pytest.approx(1 - 3 / 12)


def test_grades_need_not_be_whole():
    scores = measured({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 0.5, "b": 1.5}}, ["nDCG", "RR", "R@1"])
    assert scores.mean()["RR"] == 0.5
    assert scores.mean()["R@1"] == 0.0
    best = 1.5 + 0.5 / math.log2(3)
    assert scores.mean()["nDCG"] == pytest.approx((0.5 + 1.5 / math.log2(3)) / best)


def test_infinite_scores_have_a_rank():
    scores = measured({"q": {"a": -math.inf, "b": 0.0, "c": math.inf}}, {"q": {"b": 1}}, ["RR"])
    assert scores.mean() == {"RR": 0.5}


def test_documents_may_be_read_one_by_one():
    class Lazy(Sequence):
        asked: set[int] = set()  # noqa: RUF012

        def __len__(self):
            return 1_000_000

        def __getitem__(self, i):
            if not 0 <= i < len(self):
                raise IndexError(i)
            self.asked.add(i)
            return f"d{i:06}"

    columns = np.array([7, 999_999, 5], np.int32)
    run = Run(("q",), Lazy(), np.array([0, 3]), columns, np.array([1.0, 1.0, 0.5]))
    scores = evaluate(run, Qrels.from_dict({"q": {"d000007": 1, "d000001": 1}}), ["RR", "R@2"])
    assert scores.values.tolist() == [[0.5, 0.5]]
    assert Lazy.asked >= {5, 7, 999_999}
    assert len(Lazy.asked) < 20  # checking types in tests may read a few at random


# --- refusals -----------------------------------------------------------------------------------------------------


def test_pytrec_eval_ranks_nan_we_do_not():
    with pytest.raises(NonFiniteError, match="'b' for query 'q2' is NaN"):
        measured({"q1": {"a": 1.0}, "q2": {"a": 1.0, "b": math.nan}}, {"q1": {"a": 1}, "q2": {"a": 1}}, ["RR"])


@pytest.mark.parametrize("size", [2, 5])
def test_haystack_11959_mlflow_25965_duplicates_cannot_raise_ndcg(size):
    docs = ["a", *[f"x{i}" for i in range(size - 2)], "a"]
    run = Run.from_rows(["q"] * size, docs, [float(-i) for i in range(size)])
    with pytest.raises(DataError, match="document 'a' twice for query 'q'"):
        evaluate(run, Qrels.from_dict({"q": {"a": 1}}), ["nDCG@10"])


def test_refuses_contradicting_judgements():
    qrels = Qrels.from_rows(["q", "p", "q"], ["a", "a", "a"], [1, 1, 0])
    with pytest.raises(DataError, match="'a' is judged twice for query 'q'"):
        evaluate(Run.from_dict({"q": {"a": 1.0}}), qrels, ["nDCG@10"])


@pytest.mark.parametrize("grade", [math.nan, math.inf])
def test_refuses_grades_that_are_not_finite(grade):
    qrels = Qrels.from_dict({"p": {"x": 1}, "q": {"a": 0, "b": grade}})
    with pytest.raises(DataError, match="'b' for query 'q'"):
        evaluate(Run.from_dict({"q": {"a": 1.0}}), qrels, ["nDCG@10"])


def test_refuses_gains_beyond_float64():
    with pytest.raises(DataError, match="too large"):
        measured({"q": {"a": 1.0}}, {"q": {"a": 5000}}, ["nDCG(dcg='exp-log2')@10"])


def test_refuses_a_run_of_other_queries():
    with pytest.raises(DataError, match=r"answers none of the 1 judged queries.*'theirs'.*'ours'"):
        measured({"theirs": {"a": 1.0}}, {"ours": {"a": 1}}, ["RR"])


def test_refuses_no_judgements_no_measures_and_an_unknown_compat():
    with pytest.raises(DataError, match="no judgements"):
        measured({"q": {"a": 1.0}}, {}, ["RR"])
    with pytest.raises(UsageError, match="no measure"):
        measured({"q": {"a": 1.0}}, {"q": {"a": 1}}, [])
    with pytest.raises(UsageError, match="trec8"):
        measured({"q": {"a": 1.0}}, {"q": {"a": 1}}, ["RR"], "trec8")


def test_refuses_a_query_that_has_two_rows():
    run = Run(("q", "q"), ("a",), np.array([0, 1, 2]), np.array([0, 0], np.int32), np.array([1.0, 2.0]))
    with pytest.raises(DataError, match="run name a query twice"):
        evaluate(run, Qrels.from_dict({"q": {"a": 1}}), ["RR"])


# --- how scores are kept ------------------------------------------------------------------------------------------


def test_columns_and_json():
    run = {"q1": {"a": 2.0, "b": 1.0}, "x": {"a": 1.0}}
    scores = measured(run, {"q1": {"b": 1}, "q2": {"a": 0}}, ["nDCG@10", "MRR@10"])
    assert scores.measures == ("nDCG@10", "RR@10")
    assert scores.column("MRR@10").tolist() == [0.5, 0.0]
    assert scores.per_query()["RR@10"] == {"q1": 0.5, "q2": 0.0}
    with pytest.raises(UsageError, match=r"R@5 was not measured"):
        scores.column("R@5")
    back = Scores.from_json(json.loads(json.dumps(scores.to_json(), allow_nan=False)))
    assert back.to_json() == scores.to_json()
    assert np.array_equal(back.values, scores.values)
    for damaged in ({}, {"per_query": {}}, {"per_query": {"RR": {"q": "x"}}}, {**scores.to_json(), "unjudged": None}):
        with pytest.raises(DataError, match="not the scores"):
            Scores.from_json(damaged)
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0, 0] = 1
