"""Answers in passages: golden cases of DPR's published rules, a plain reference, and accuracy beside judgements."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright.errors import DataError, UsageError
from rankwright.evaluation import Evidence, evaluate, has_answer
from rankwright.evaluation.answers import retrieved, tokens
from rankwright.types import Document, Qrels, Run

COMPOSED, APART = "Beyonc\u00e9", "Beyonce\u0301"


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [
        ("He was born in Ulm, in 1879.", "Ulm", True),
        ("He was born in ulm.", "ULM", True),  # case does not count
        ("The town of Ulmen", "Ulm", False),  # part of a token is no token
        ("It rose by 1,879 metres", "879", True),  # the comma is a token of its own
        ("It rose by 1879 metres", "879", False),
        ("in 3.14 of them", "3.14", True),
        ("in 3 . 14 of them", "3.14", True),  # white space between tokens does not count
        ("in 3-14 of them", "3.14", False),
        ("the rock-and-roll years", "rock and roll", False),  # a hyphen is a token
        ("the rock-and-roll years", "rock - and - roll", True),
        ("the song 'Hello'", "Hello", True),
        ("It isn't so", "isn ' t", True),
        ("state_of_the_art", "the_art", True),  # an underscore is no letter: a token of its own
        ("state_of_the_art", "the", True),
        ("New\nYork", "New York", True),
        ("New\u00a0York", "New York", True),  # no-break space is a separator
        ("New\u200bYork", "New York", True),  # so is a zero-width space: it is of category Cf
        ("NewYork", "New York", False),
        ("York New", "New York", False),
        ("New old York", "New York", False),
        (f"sung by {COMPOSED}", APART, True),  # both become NFD
        (f"sung by {APART}", COMPOSED, True),
        (f"sung by {COMPOSED}", "Beyonce", False),  # the accent is a mark and belongs to the token
        ("\u212b 10", "\u00e5 10", True),  # the Angstrom sign is A with a ring in NFD
        ("\ufb01ve", "five", False),  # the ligature stays: NFD is not NFKD
        ("\u0130stanbul", "i\u0307stanbul", True),  # dotted capital I in lower case
        ("\u03a3\u039f\u03a6\u0399\u0391\u03a3 1", "\u03c3\u03bf\u03c6\u03b9\u03b1\u03c2", True),  # final sigma
        ("\u039f\u0394\u039f\u03a3.\u0391", "\u03bf\u03b4\u03bf\u03c2", True),  # final in its token, not in the text
        ("\u6771\u4eac\u90fd", "\u6771\u4eac", False),  # a run of Chinese characters is one token
        ("\u6771\u4eac \u90fd", "\u6771\u4eac", True),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e", "\u0939\u093f\u0928\u094d\u0926\u0940", True),
        ("a price of \u20ac5", "\u20ac 5", True),  # a currency sign is a token
        ("x\u00b2 y", "x", False),  # a superscript two is a number
        ("\U0001f600\U0001f600", "\U0001f600", True),  # signs stand alone
        ("", "Ulm", False),
        ("Ulm", "", False),  # without a token it matches nothing
        ("Ulm", " \u200b ", False),
    ],
)
def test_golden_cases_of_strings(text, answer, holds):
    assert has_answer(text, [answer]) is holds
    assert has_answer(text, ["no such thing", answer]) is holds


@pytest.mark.parametrize(
    ("text", "pattern", "holds"),
    [
        ("born on 14 March 1879", r"1[0-9]{3}", True),
        ("born on 14 MARCH 1879", r"march 18\d\d", True),  # case does not count
        ("Ulmen", "Ulm", True),  # a pattern knows no tokens
        ("first\nlast", "^last$", True),  # line by line
        ("first\nlast", "first.last", False),
        (f"by {COMPOSED}", f"{APART}$", True),  # both become NFD
        ("Ulm", "Ulm(", False),  # no pattern: matches nothing
    ],
)
def test_golden_cases_of_patterns(text, pattern, holds):
    assert has_answer(text, [pattern], match="regex") is holds


def test_tokens():
    assert tokens("It's 3.5\u00a0km, na\u00efve_1!") == [
        "it",
        "'",
        "s",
        "3",
        ".",
        "5",
        "km",
        ",",
        "nai\u0308ve",
        "_",
        "1",
        "!",
    ]
    assert tokens("") == tokens(" \t\u200b") == []


@pytest.mark.oracle
@given(st.text(), st.lists(st.text(max_size=4), max_size=3))
def test_any_text_is_cut_and_matched_by_the_published_rule(text, answers):
    regex = pytest.importorskip("regex")
    published = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")

    def cut(value: str) -> list[str]:
        return [token.lower() for token in published.findall(unicodedata.normalize("NFD", value))]

    unassigned = any(unicodedata.category(c) == "Cn" for c in text + "".join(answers))
    if unassigned:  # the tables of Python and regex may be of different years
        return
    assert tokens(text) == cut(text)
    answers = [*answers, text[1:3], text[-3:], " ".join(cut(text)[1:3])]
    whole = cut(text)
    expected = any(
        words and words == whole[i : i + len(words)] for words in map(cut, answers) for i in range(len(whole))
    )
    assert has_answer(text, answers) is expected


# --- measures ---------------------------------------------------------------------------------------------------------

TEXTS = {"a": "nothing here", "b": "Paris is big", "c": "the city of Rome", "d": "Paris and Rome", "e": ""}
ANSWERS = {"q1": ("Paris",), "q2": ("Rome", "Roma"), "q3": ("Berlin",), "q4": ("Paris",)}
RUN = Run.from_dict({
    "q1": {"a": 3.0, "b": 2.0, "d": 1.0}, "q2": {"c": 9.0, "a": 1.0}, "q3": {"a": 1.0, "e": 0.5}, "other": {"a": 1.0},
})  # fmt: skip


def passages(ids):
    return [Document(key, "a title with Berlin", TEXTS[key]) for key in ids]


def test_accuracy_is_whether_an_answer_stands_in_the_first_k():
    scores = Evidence(answers=ANSWERS, passages=passages).measure(RUN, ["Accuracy@2", "Accuracy@1", "Accuracy@100"])
    assert scores.measures == ("Accuracy@2", "Accuracy@1", "Accuracy@100")
    assert scores.queries == ("q1", "q2", "q3", "q4")
    assert scores.values.tolist() == [[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]  # a title does not count
    assert scores.missing == ("q4",)
    assert scores.extra == ("other",)
    assert scores.mean()["Accuracy@1"] == 0.25  # the question that the run lacks counts as zero


def test_patterns_and_strings_in_one_report():
    answers = {"q1": ("P.ris",), "q2": ("r[aeo]me$",)}
    names = ["Accuracy@5", "Accuracy(match='regex')@5", "Accuracy(match='regex')@1"]
    scores = Evidence(answers=answers, passages=passages).measure(RUN, names)
    assert scores.values.tolist() == [[0, 1, 0], [0, 1, 1]]


def test_judgements_and_answers_side_by_side_over_the_questions_that_have_both():
    qrels = Qrels.from_dict({"q0": {"a": 1}, "q2": {"a": 1}, "q1": {"b": 1}})
    measures = ["RR", "Accuracy@1", "nDCG@10"]
    scores = Evidence(qrels, ANSWERS, passages).measure(RUN, measures)
    assert scores.queries == ("q2", "q1")
    assert np.array_equal(scores.column("Accuracy@1"), [1, 0])
    both = Qrels.from_dict({"q2": {"a": 1}, "q1": {"b": 1}})
    for name in ("RR", "nDCG@10"):
        assert np.array_equal(scores.column(name), evaluate(RUN, both, [name]).column(name))
    everything = Evidence(qrels, ANSWERS, passages).measure(RUN, ["RR"])
    assert everything.queries == ("q0", "q2", "q1")  # no measure asks for answers: all judged queries count


def test_evidence_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="nDCG@10 needs judgements"):
        Evidence(answers=ANSWERS, passages=passages).measure(RUN, ["Accuracy@5", "nDCG@10"])
    with pytest.raises(UsageError) as caught:
        Evidence(Qrels.from_dict({"q1": {"a": 1}})).measure(RUN, ["Accuracy@7"])
    assert "Success@7" in str(caught.value.fix)
    with pytest.raises(UsageError, match="Accuracy@7 looks for answers"):
        evaluate(RUN, Qrels.from_dict({"q1": {"a": 1}}), ["Accuracy@7"])
    with pytest.raises(DataError, match="no question has both"):
        Evidence(Qrels.from_dict({"q9": {"a": 1}}), ANSWERS, passages).measure(RUN, ["Accuracy@5", "RR"])
    with pytest.raises(DataError, match="none of the 1 questions"):
        Evidence(answers={"0": ("Paris",)}, passages=passages).measure(RUN, ["Accuracy@5"])


def test_retrieved_passages_say_which_hold_an_answer():
    rows = {row.query: row for row in retrieved(RUN, ANSWERS, passages, depth=2)}
    assert list(rows) == list(ANSWERS) == ["q1", "q2", "q3", "q4"]
    assert rows["q4"][1:] == ([], pytest.approx([]), [])
    assert [doc.id for doc in rows["q1"].docs] == ["a", "b"]
    assert rows["q1"].scores.tolist() == [3.0, 2.0]
    assert rows["q1"].has_answer == [False, True]
