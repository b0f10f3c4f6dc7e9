"""Strata from DPR's JSON in both spellings, and questions in several wordings: one of each sample an epoch."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from rankwright.data import ByDocument, Dataset, Shuffled, read_topics
from rankwright.data.dialects import convert
from rankwright.data.wordings import OneWording
from rankwright.errors import DataError, RecipeError, UsageError


def passage(text: str) -> dict[str, str]:
    return {"title": "", "text": text}


SR = [
    {"sample_id": 7, "questions": ["who eats?", " who eats "], "positive_contexts": [passage("a")],
     "hardneg_contexts": [passage("b"), passage("c")]},
    {"sample_id": 8, "questions": ["why?", "why so"], "positive_contexts": [passage("c"), passage("d")],
     "hardneg_contexts": []},
]  # fmt: skip
DPR = [
    {"question": "who eats?", "answers": ["bears"], "positive_ctxs": [passage("a")], "negative_ctxs": [passage("z")],
     "hard_negative_ctxs": [passage("b"), passage("c")]},
    {"question": "why??", "answers": [], "positive_ctxs": [passage("c"), passage("d")], "hard_negative_ctxs": []},
]  # fmt: skip


def grades(folder: Path) -> dict[str, dict[str, float]]:
    data = Dataset.open(folder)
    text = {d.id: d.text for part in (data.queries, data.corpus) for d in (part[i] for i in range(len(part)))}
    return {text[q]: {text[d]: g for d, g in row.items()} for q, row in data.qrels("train").to_dict().items()}


@pytest.mark.parametrize("kind", ["json", "jsonl", "json.gz", "jsonl.gz"])
@pytest.mark.parametrize("records", [SR, DPR], ids=["sr-dpr", "dpr"])
def test_strata_are_grades(records: list[dict], kind: str, tmp_path: Path):
    text = json.dumps(records) if "jsonl" not in kind else "".join(json.dumps(r) + "\n" for r in records)
    source = tmp_path / f"train.{kind}"
    source.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    made = convert(source, tmp_path / "out", strata=True)
    assert made.dialect == "dpr"
    second = {"c": 2.0, "d": 2.0}
    if records is SR:  # wordings that are the same without the question mark are one
        assert grades(tmp_path / "out") == {"who eats": {"a": 2.0, "b": 1.0, "c": 1.0}, "why": second, "why so": second}
        assert sorted(Counter(read_topics(tmp_path / "out" / "samples.tsv").values()).items()) == [("8", 2)]
    else:
        expected = {"who eats": {"a": 2.0, "b": 1.0, "c": 1.0, "z": 0.0}, "why?": second}
        assert grades(tmp_path / "out") == expected
        assert not (tmp_path / "out" / "samples.tsv").exists()


def converted(record: dict, tmp_path: Path) -> Path:
    (tmp_path / "x.json").write_text(json.dumps([record]))
    return convert(tmp_path / "x.json", tmp_path / "out", strata=True).folder


def test_a_passage_in_both_lists_of_negatives_is_hard(tmp_path: Path):
    record = DPR[0] | {"negative_ctxs": [passage("b"), passage("z")]}
    assert grades(converted(record, tmp_path))["who eats"] == {"a": 2.0, "b": 1.0, "c": 1.0, "z": 0.0}


def test_records_without_a_sample_are_samples_of_their_own(tmp_path: Path):
    records = [SR[1] | {"sample_id": None, "questions": [f"{i} a", f"{i} b"]} for i in range(2)]
    (tmp_path / "x.json").write_text(json.dumps(records))
    convert(tmp_path / "x.json", tmp_path / "out", strata=True)
    assert sorted(Counter(read_topics(tmp_path / "out" / "samples.tsv").values()).values()) == [2, 2]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"questions": []}, "questions are missing"),
        ({"questions": None}, "questions are missing"),
        ({"sample_id": "a\tb"}, "sample id .* has white space"),
        ({"sample_id": [1]}, "sample id is no string"),
        ({"answers": ["\ud800"]}, "half of a surrogate pair"),
    ],
)
def test_records_that_say_nothing_are_refused(change: dict, what: str, tmp_path: Path):
    with pytest.raises(DataError, match=what) as caught:
        converted(SR[1] | change, tmp_path)
    assert str(caught.value.where).endswith("x.json:1")
    assert not (tmp_path / "out").exists()


def test_strata_are_for_dpr_alone(tmp_path: Path, tiny_data: Path):
    with pytest.raises(UsageError, match="--strata: for dpr"):
        convert(tiny_data, tmp_path / "out", strata=True)


QUERIES = ["a1", "a2", "a3", "b1", "b2", "c"]


@pytest.fixture
def samples(tmp_path: Path) -> str:
    path = tmp_path / "samples.tsv"
    path.write_text("query-id\ttopic\n" + "".join(f"{q}\t{q[0]}\n" for q in QUERIES[:-1]))
    return str(path)


def test_one_wording_of_each_sample_an_epoch_all_in_the_long_run(samples: str):
    spec, seen = OneWording(samples, Shuffled(2)), Counter()
    for epoch in range(60):
        plan = spec.plan(QUERIES, lambda row: [row], seed=1, epoch=epoch)
        drawn = [QUERIES[row] for row in plan.order.tolist()]
        assert sorted(query[0] for query in drawn) == ["a", "b", "c"]
        again = OneWording(samples, Shuffled(2)).plan(QUERIES, lambda row: [row], seed=1, epoch=epoch)
        assert again.order.tolist() == plan.order.tolist()
        seen.update(drawn)
    assert seen["c"] == 60
    assert min(seen[q] for q in QUERIES[:3]) > 8
    assert min(seen["b1"], seen["b2"]) > 15


def test_the_inner_batches_see_the_lists_of_the_drawn_queries(samples: str):
    documents = {0: [9], 1: [9], 2: [9], 3: [9], 4: [9], 5: [4]}
    plan = OneWording(samples, ByDocument(2)).plan(QUERIES, documents.__getitem__, seed=2, epoch=0)
    assert "".join(QUERIES[row][0] for row in plan.order.tolist()) in ("abc", "bac", "cab", "cba")  # a and b share one
    assert OneWording(samples, ByDocument(2)).files() == (samples,)


def test_a_file_about_other_queries_is_refused(samples: str):
    with pytest.raises(DataError, match="none of the training queries"):
        OneWording(samples).plan(["x", "y"], lambda row: [row], seed=0, epoch=0)
    with pytest.raises(RecipeError):
        OneWording(samples, OneWording(samples))
    with pytest.raises(RecipeError):
        OneWording("")
