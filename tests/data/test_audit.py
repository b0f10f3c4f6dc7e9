"""The doctor's checks on a small data set in which every fault is planted, and counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rankwright.data import Dataset, audit, suspected_false_negatives
from rankwright.data.audit import Finding, normalised
from rankwright.types import Qrels, Run

DOCS = {
    "d0": "Cats purr.", "d1": "cats  PURR", "d2": "Dogs bark", "d3": "fish swim",
    "d4": "birds fly", "d5": "Dogs: bark!",
}  # fmt: skip
QUERIES = {
    "q0": "which animal purrs", "q1": "Which animal purrs?", "q2": "what barks", "q3": "what flies",
    "t0": "WHAT BARKS", "t1": "what swims", "t2": "what crawls",
}  # fmt: skip
TRAIN = [("q0", "d0", 1), ("q1", "d1", 2), ("q2", "d2", 1), ("q2", "d3", 0), ("q3", "d3", 0)]
TEST = [("t0", "d5", 1), ("t1", "d3", 1), ("q2", "d4", 0), ("t2", "d4", 0)]


def _open(root: Path, *, train=TRAIN, test=TEST, docs=DOCS) -> Dataset:
    (root / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in docs.items()]
    (root / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    (root / "queries.jsonl").write_text("".join(json.dumps({"_id": k, "text": t}) + "\n" for k, t in QUERIES.items()))
    for name, pairs in (("train", train), ("test", test)):
        (root / "qrels" / f"{name}.tsv").write_text("".join(f"{q}\t{d}\t{g}\n" for q, d, g in pairs))
    return Dataset.open(root, cache=root / "cache")


def test_every_planted_fault_is_counted(tmp_path: Path) -> None:
    found = audit(
        _open(tmp_path), doc_lengths=np.array([3, 3, 9, 10, 11, 40]), doc_limit=10, query_lengths=np.arange(7)
    )
    assert found.documents.texts == 6
    assert found.documents.duplicates == Finding(2, ("d1 = d0", "d5 = d2"))
    assert found.documents.empty == Finding()
    assert found.documents.truncated == pytest.approx(2 / 6)
    assert found.documents.lengths == {"50%": 9, "90%": 11, "99%": 11, "max": 40}
    assert found.queries.duplicates == Finding(2, ("q1 = q0", "t0 = q2"))
    assert found.queries.truncated is None
    train, test = found.splits["train"], found.splits["test"]
    assert (train.queries, train.pairs) == (4, 5)
    assert train.contradictions.count == 1
    assert train.contradictions.examples == ("(q0, d0) has 1, (q1, d1) with the same texts 2",)
    assert train.without_positive == Finding(1, ("q3",))
    assert train.list_lengths == {1: 3, 2: 1}
    assert train.positives == {0: 1, 1: 3}
    assert train.grades == {0: 2, 1: 2, 2: 1}
    assert test.without_positive == Finding(2, ("q2", "t2"))
    leak = found.leaks["test"]
    assert leak.ids == Finding(1, ("q2",))
    assert leak.texts == Finding(1, ("t0 = q2 of the training split",))
    assert leak.pairs == Finding(1, ("(t0, d5)",))


def test_warnings_say_what_was_found(tmp_path: Path) -> None:
    words = "\n".join(audit(_open(tmp_path), doc_lengths=np.array([3, 3, 9, 10, 11, 40]), doc_limit=10).warnings)
    for expected in (
        "1 queries of 'test' are in 'train' too", "1 query texts of 'test'", "1 relevant pairs of 'test'",
        "'train': 1 judgements contradict", "'train': 1 queries have no relevant document",
        "2 documents repeat the text", "33% of the documents are longer than 10 tokens",
    ):  # fmt: skip
        assert expected in words


def test_a_clean_data_set_has_no_warnings(tmp_path: Path) -> None:
    docs = {key: DOCS[key] for key in ("d0", "d2", "d3")}
    _open(tmp_path, train=[("q0", "d0", 1), ("q0", "d2", 0)], test=[("t1", "d3", 1)], docs=docs)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q0", "text": "which"}\n{"_id": "t1", "text": "what swims"}\n')
    dataset = Dataset.open(tmp_path, cache=tmp_path / "cache")
    assert audit(dataset).warnings == ()


def test_missing_ids_are_counted_not_raised(tmp_path: Path) -> None:
    pairs = [*TRAIN, ("q9", "d0", 1), ("q0", "d9", 1), ("q0", "d8", 1), ("q1", "d8", 1)]
    found = audit(_open(tmp_path, train=pairs))
    assert found.splits["train"].missing_documents.count == 2
    assert found.splits["train"].missing_queries.count == 1
    assert "'q9'" in found.splits["train"].missing_queries.examples[0]
    assert found.splits["test"].missing_documents.count == 0
    assert found.problems == {"missing document": 2, "missing query": 1}


def test_an_audit_is_json(tmp_path: Path) -> None:
    found = audit(_open(tmp_path), doc_lengths=np.array([3, 3, 9, 10, 11, 40]), doc_limit=10)
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again == found.to_dict()
    assert again["splits"]["train"]["grades"] == {"0": 2, "1": 2, "2": 1}
    assert again["leaks"]["test"]["ids"]["examples"] == ["q2"]


def test_test_data_alone(tmp_path: Path) -> None:
    found = audit(_open(tmp_path), train_split=None, test_splits=["test"])
    assert list(found.splits) == ["test"]
    assert found.leaks == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What  is\tTHIS?", "what is this"), ("ﬁne—Straße", "fine strasse"), ("snake_case", "snake case"),
        (" ?! ", "?!"), (" \n", ""), ("", ""), ("数学 。", "数学"),
    ],
)  # fmt: skip
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_suspected_false_negatives() -> None:
    qrels = Qrels.from_dict({"q0": {"a": 1, "b": 2, "n": 0}, "q1": {"a": 1}, "q2": {"a": 0}, "q3": {"z": 1}})
    run = Run.from_dict(
        {
            "q0": {"x": 9.0, "n": 8.0, "b": 7.0, "y": 6.0, "a": 1.0},  # only x leads the best relevant one
            "q1": {"x": 5.0, "y": 4.4, "a": 4.0, "w": 4.0},
            "q2": {"x": 5.0, "a": 4.0},  # nothing relevant
            "q3": {"x": 5.0},  # the relevant one was not found
            "q4": {"x": 5.0},  # not judged
        }
    )
    found = suspected_false_negatives(run, qrels)
    assert (found.checked, found.queries) == (2, 2)
    assert found.suspects == Finding(3, ("(q0, x) leads by 2", "(q1, x) leads by 1", "(q1, y) leads by 0.4"))
    found = suspected_false_negatives(run, qrels, margin=1.0)
    assert found.suspects == Finding(1, ("(q0, x) leads by 2",))
    assert found.checked == 2
