"""Names of measures: those of ir-measures, and a suggestion for every other spelling."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import UsageError
from rankwright.evaluation import Measure, parse, stated

NAMES = [
    *("nDCG@1", "nDCG", "RR", "RR(rel=2)", "RR(rel=2)@10", "R@1000", "R(rel=2)@5", "P@3", "AP", "AP(rel=2)@100"),
    *("Success@1", "Success(rel=3)@5", "nDCG(dcg='exp-log2')@3", "nDCG(dcg='exp-log2')", "Judged@3", "Judged"),
    *("MRR@10", "MAP", "Recall(rel=2)@7", "NDCG@5", "Precision@1", "RR(rel=1)"),
]


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_ir_measures(name):
    ir_measures = pytest.importorskip("ir_measures")
    assert str(parse(name)[0]) == str(ir_measures.parse_measure(name))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("ndcg@10", "did you mean nDCG@10?"),
        ("nDGC@5", "did you mean nDCG@5?"),
        ("ndcg_cut_10", "did you mean nDCG@10?"),
        ("ndcg_cut.20", "did you mean nDCG@20?"),
        ("mrr@10", "did you mean RR@10?"),
        ("recip_rank", "did you mean RR?"),
        ("recall_100", "did you mean R@100?"),
        ("recall", "did you mean R@10?"),
        ("hit@5", "did you mean Success@5?"),
        ("map", "did you mean AP?"),
        ("MAP_cut_5", "did you mean AP@5?"),
        ("ERR@20", "choose from nDCG, RR, R, P, AP, Success, Judged, Accuracy, e.g. nDCG@10, RR(rel=2)@10, R@100"),
        ("Bpref", "choose from nDCG, RR, R, P, AP, Success, Judged, Accuracy, e.g. nDCG@10, RR(rel=2)@10, R@100"),
        ("", "choose from nDCG, RR, R, P, AP, Success, Judged, Accuracy, e.g. nDCG@10, RR(rel=2)@10, R@100"),
        ("R", "e.g. R@10"),
        ("P@0", None),
        ("RR(rel=0)@10", "grade 0 means not relevant"),
        ("RR(rel=two)", None),
        ("RR(rell=2)@10", "write e.g. RR(rel=2)@10"),
        ("RR(rel=2,rel=3)@10", "write e.g. RR(rel=2)@10"),
        ("nDCG(rel=2)@10", "write e.g. nDCG(dcg='exp-log2')@10"),
        ("nDCG(dcg='exp')@10", None),
        ("Judged(rel=2)@10", "write e.g. Judged@10"),
        ("Accuracy", "e.g. Accuracy@10"),
        ("accuracy@20", "did you mean Accuracy@20?"),
        ("top_k_accuracy@5", "did you mean Accuracy@5?"),
        ("Accuracy(rel=2)@10", "write e.g. Accuracy(match='regex')@20"),
        ("Accuracy(match=glob)@10", None),
        ("RR@ten", "did you mean RR?"),
    ],
)
def test_refuses_other_names_with_a_suggestion(name, fix):
    with pytest.raises(UsageError) as caught:
        parse([name])
    assert caught.value.fix == fix


def test_parsing():
    assert parse(["MRR@10", "RR@10", "RR(rel=1)@10"]) == [Measure("RR", 10)]
    assert parse('nDCG( dcg = "exp-log2" ) @ 10') == [Measure("nDCG", 10, dcg="exp-log2")]
    assert parse([Measure("AP", rel=2), "AP"]) == [Measure("AP", rel=2), Measure("AP")]
    assert parse(['Accuracy(match="regex")@20', "Accuracy(match=string)@1"]) == [
        Measure("Accuracy", 20, match="regex"),
        Measure("Accuracy", 1),
    ]
    assert str(parse("Accuracy(match=regex)@20")[0]) == "Accuracy(match='regex')@20"
    assert [str(m) for m in parse(["nDCG(dcg='exp-log2')@10", "R(rel=2)@5"])] == [
        "nDCG(dcg='exp-log2')@10",
        "R(rel=2)@5",
    ]


def test_what_the_judgements_mean_is_stated():
    names = ["nDCG@10", "RR(rel=2)@10", "nDCG(dcg='exp-log2')@10", "R(rel=2)@100", "Judged@10", "AP"]
    assert stated(names) == (
        "nDCG@10: gain = grade; RR(rel=2)@10, R(rel=2)@100: relevant from grade 2; "
        "nDCG(dcg='exp-log2')@10: gain = 2^grade - 1; Judged@10: any grade counts; AP: relevant from grade 1"
    )


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=30), st.from_regex(r"[A-Za-z]{1,8}(\([a-z=0-9',]*\))?(@[0-9]{0,12})?", fullmatch=True))
)
def test_any_name_is_a_measure_or_a_usage_error(name):
    try:
        (measure,) = parse([name])
    except UsageError:
        return
    assert parse([str(measure)]) == [measure]
