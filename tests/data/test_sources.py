"""Sources and their merge, against a dictionary that does the same in the obvious way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import Dataset, Judged, Reading, Supervision, dataset_of
from rankwright.errors import DataError, RecipeError
from rankwright.types import Qrels

_QUERY, _DOC = st.sampled_from(["q1", "q2", "q10", "é"]), st.sampled_from([f"d{i}" for i in range(7)])
_TABLE = st.dictionaries(_QUERY, st.dictionaries(_DOC, st.sampled_from([-1.0, 0.0, 1.0, 2.5]), max_size=6), max_size=4)


def _merged(tables: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    merged: dict[str, dict[str, float]] = {}
    for table in tables:
        for query, docs in table.items():
            merged.setdefault(query, {}).update(docs)
    return {q: dict(sorted(merged[q].items())) for q in sorted(merged) if any(v > 0 for v in merged[q].values())}


def _tables(dicts: list[dict[str, dict[str, float]]]) -> list[Qrels]:
    return [Qrels.from_dict(table) for table in dicts]


@settings(max_examples=150, deadline=None)
@given(dicts=st.lists(_TABLE, max_size=4))
def test_later_tables_win(dicts: list[dict[str, dict[str, float]]]) -> None:
    supervision, expected = Supervision.merge(_tables(dicts)), _merged(dicts)
    assert supervision.table.to_dict() == expected
    assert list(supervision.queries) == list(expected)
    assert list(supervision.docs) == sorted({doc for docs in expected.values() for doc in docs})
    named = {query for table in dicts for query, docs in table.items() if docs}
    assert supervision.dropped == len(named) - len(expected)
    for row, (query, docs) in enumerate(expected.items()):
        assert supervision.candidates(row) == (query, list(docs), list(docs.values()))
        assert [supervision.docs[c] for c in supervision.columns(row)] == list(docs)


@settings(max_examples=150, deadline=None)
@given(dicts=st.lists(_TABLE, min_size=1, max_size=3), data=st.data())
def test_pairs_finds_every_known_target(dicts: list[dict[str, dict[str, float]]], data: st.DataObject) -> None:
    supervision, expected = Supervision.merge(_tables(dicts)), _merged(dicts)
    pick = lambda n: data.draw(st.lists(st.integers(0, n - 1), max_size=9)) if n else []  # noqa: E731
    rows, columns = pick(len(supervision)), pick(len(supervision.docs))
    found = supervision.pairs(np.array(rows, np.int64), np.array(columns, np.int64))
    wanted = {
        (i, j): expected[supervision.queries[row]][supervision.docs[column]]
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        if supervision.docs[column] in expected[supervision.queries[row]]
    }
    assert len(found[0]) == len(wanted)
    assert {(int(i), int(j)): value for i, j, value in zip(*found)} == wanted


@settings(max_examples=50, deadline=None)
@given(table=_TABLE, data=st.data())
def test_the_order_of_lines_changes_nothing(table: dict[str, dict[str, float]], data: st.DataObject) -> None:
    rows = [(q, d, v) for q, docs in table.items() for d, v in docs.items()]
    shuffled = data.draw(st.permutations(rows))
    one, other = [
        Supervision.merge([Qrels.from_rows(*([r[i] for r in x] for i in range(3)))]) for x in (rows, shuffled)
    ]
    assert one.fingerprint == other.fingerprint
    assert one.table.to_dict() == other.table.to_dict()


def test_the_fingerprint_notices_every_change() -> None:
    tables = [
        {"q": {"d": 1.0}}, {"q": {"d": 2.0}}, {"q": {"e": 1.0}}, {"p": {"d": 1.0}}, {"q": {"d": 1.0, "e": 0.0}}, {},
        {"q": {"d": 1.0}, "qd": {"d": 1.0}}, {"q": {"d": 1.0, "dd": 1.0}},
    ]  # fmt: skip
    assert len({Supervision.merge([Qrels.from_dict(table)]).fingerprint for table in tables}) == len(tables)


# --- Judged ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": f"text {i}"}) + "\n" for i in range(6))
    )
    (folder / "queries.tsv").write_text("q1\tone\nq2\ttwo\nq3\tthree\n")
    (folder / "qrels/train.tsv").write_text("q1\td0\t2\nq1\td1\t1\nq1\td2\t0\nq2\td3\t3\nq3\td4\t0\n")
    (tmp_path / "mined.tsv").write_text("q1\td1\t1\nq1\td5\t1\nq2\td0\t1\n")
    return Dataset.open(folder)


def _supervise(dataset: Dataset, *sources: Judged) -> dict[str, dict[str, float]]:
    return Supervision.open(dataset, sources).table.to_dict()


def test_grades_are_filtered_then_replaced(dataset: Dataset) -> None:
    plain = Judged(dataset.name)
    assert plain.table(dataset).to_dict() == {"q1": {"d0": 2, "d1": 1, "d2": 0}, "q2": {"d3": 3}, "q3": {"d4": 0}}
    assert _supervise(dataset, plain) == {"q1": {"d0": 2, "d1": 1, "d2": 0}, "q2": {"d3": 3}}
    assert _supervise(dataset, Judged(dataset.name, min_grade=2)) == {"q1": {"d0": 2}, "q2": {"d3": 3}}
    both = Judged(dataset.name, min_grade=1, max_grade=2, grade=5)
    assert _supervise(dataset, both) == {"q1": {"d0": 5, "d1": 5}}


def test_mined_negatives_come_first_and_judgements_win(dataset: Dataset, tmp_path: Path) -> None:
    mined = Judged(dataset.name, qrels=str(tmp_path / "mined.tsv"), grade=0)
    expected = {"q1": {"d0": 2, "d1": 1, "d2": 0, "d5": 0}, "q2": {"d0": 0, "d3": 3}}
    assert _supervise(dataset, mined, Judged(dataset.name)) == expected
    supervision = Supervision.open(dataset, [mined, Judged(dataset.name)])
    assert supervision.dropped == 1  # q3


def test_documents_that_the_corpus_lacks_are_not_trained_on(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "more.tsv"
    path.write_text("q1\tabsent\t3\nq1\td0\t1\nq2\tabsent\t1\n")
    source = Judged(dataset.name, qrels=str(path))
    with pytest.raises(DataError, match="'absent'"):
        Supervision.open(dataset, [source])
    supervision = Supervision.open(dataset, [source], reading=Reading(lenient=True))
    assert supervision.table.to_dict() == {"q1": {"d0": 1.0}}
    assert supervision.dropped == 1


def test_nothing_to_learn_from(dataset: Dataset) -> None:
    with pytest.raises(RecipeError, match=r"no query has a document with a target above 0 \(3 queries"):
        Supervision.open(dataset, [Judged(dataset.name, grade=0)])


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"dataset": ""}, "Judged.dataset"),
        ({"dataset": "a", "split": ""}, "Judged.split"),
        ({"dataset": "a", "min_grade": float("nan")}, "Judged.min_grade"),
        ({"dataset": "a", "grade": float("inf")}, "Judged.grade"),
        ({"dataset": "a", "min_grade": 2, "max_grade": 1}, "Judged"),
    ],
)
def test_what_a_recipe_may_not_say(arguments: dict[str, object], where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Judged(**arguments)  # type: ignore[arg-type]
    assert caught.value.where == where
    assert caught.value.fix


def test_one_stage_one_dataset() -> None:
    assert dataset_of([Judged("a"), Judged("a", grade=0)]) == "a"
    with pytest.raises(RecipeError, match="over 2 data sets: a, b"):
        dataset_of([Judged("a"), Judged("b")])
    with pytest.raises(RecipeError, match="no source"):
        dataset_of([])


def test_naming_a_spec_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pyarrow", "scipy", "huggingface_hub")
    code = f"import sys, rankwright.data as d; d.Judged('x'); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
