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

from rankwright.data import (
    Dataset,
    Judged,
    Keep,
    Mixture,
    Ranking,
    Reading,
    Scored,
    Source,
    Supervision,
    Triples,
    supervise,
)
from rankwright.data.keeping import in_fraction
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
        assert supervision.candidates(row, supervision.rows(row, seed=3, epoch=9)) == supervision.candidates(row)


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


def _open(dataset: Dataset, *sources: Source, reading: Reading | None = None) -> Supervision:
    return supervise(Mixture.open(sources, lambda _: dataset), sources, reading=reading)


def _supervise(dataset: Dataset, *sources: Source) -> dict[str, dict[str, float]]:
    return _open(dataset, *sources).table.to_dict()


def test_grades_are_filtered_then_replaced(dataset: Dataset) -> None:
    plain = Judged(dataset.name)
    assert next(plain.parts(dataset, reading=Reading())).to_dict() == {
        "q1": {"d0": 2, "d1": 1, "d2": 0},
        "q2": {"d3": 3},
        "q3": {"d4": 0},
    }
    assert _supervise(dataset, plain) == {"q1": {"d0": 2, "d1": 1, "d2": 0}, "q2": {"d3": 3}}
    assert _supervise(dataset, Judged(dataset.name, min_grade=2)) == {"q1": {"d0": 2}, "q2": {"d3": 3}}
    both = Judged(dataset.name, min_grade=1, max_grade=2, grade=5)
    assert _supervise(dataset, both) == {"q1": {"d0": 5, "d1": 5}}


def test_mined_negatives_come_first_and_judgements_win(dataset: Dataset, tmp_path: Path) -> None:
    mined = Judged(dataset.name, qrels=str(tmp_path / "mined.tsv"), grade=0)
    expected = {"q1": {"d0": 2, "d1": 1, "d2": 0, "d5": 0}, "q2": {"d0": 0, "d3": 3}}
    assert _supervise(dataset, mined, Judged(dataset.name)) == expected
    supervision = _open(dataset, mined, Judged(dataset.name))
    assert supervision.dropped == 1  # q3


def test_documents_that_the_corpus_lacks_are_not_trained_on(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "more.tsv"
    path.write_text("q1\tabsent\t3\nq1\td0\t1\nq2\tabsent\t1\n")
    source = Judged(dataset.name, qrels=str(path))
    with pytest.raises(DataError, match="'absent'"):
        _open(dataset, source)
    supervision = _open(dataset, source, reading=Reading(lenient=True))
    assert supervision.table.to_dict() == {"q1": {"d0": 1.0}}
    assert supervision.dropped == 1


def test_nothing_to_learn_from(dataset: Dataset) -> None:
    with pytest.raises(RecipeError, match=r"no query has a document with a target above 0 \(3 queries"):
        _open(dataset, Judged(dataset.name, grade=0))


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"dataset": ""}, "Judged.dataset"),
        ({"dataset": "a", "split": ""}, "Judged.split"),
        ({"dataset": "a", "min_grade": float("nan")}, "Judged.min_grade"),
        ({"dataset": "a", "grade": float("inf")}, "Judged.grade"),
        ({"dataset": "a", "min_grade": 2, "max_grade": 1}, "Judged"),
        ({"dataset": "a", "floor": 2, "ceil": 1}, "Judged"),
        ({"dataset": "a", "grade": 1, "floor": 0}, "Judged.grade"),
        ({"dataset": "a", "relabel": {"x": 1}}, "Judged.relabel"),
        ({"dataset": "a", "relabel": {}}, "Judged.relabel"),
        ({"dataset": "a", "queries": 1.5}, "Judged.queries"),
        ({"dataset": "a", "namespace": "a b"}, "Judged.namespace"),
    ],
)
def test_what_a_recipe_may_not_say(arguments: dict[str, object], where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Judged(**arguments)  # type: ignore[arg-type]
    assert caught.value.where == where
    assert caught.value.fix


def test_naming_a_spec_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pyarrow", "scipy", "huggingface_hub")
    made = "d.Judged('x', keep=d.Keep(top=1)); d.Scored('x', 'y')"
    code = f"import sys, rankwright.data as d; {made}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- the other sources -----------------------------------------------------------------------------------------------


def test_relabelled_and_clamped_after_filter_and_keep(dataset: Dataset) -> None:
    name = dataset.name
    assert _supervise(dataset, Judged(name, relabel={1: 3, 2: 3}))["q1"] == {"d0": 3, "d1": 3, "d2": 0}
    assert _supervise(dataset, Judged(name, floor=1, ceil=2)) == {
        "q1": {"d0": 2, "d1": 1, "d2": 1}, "q2": {"d3": 2}, "q3": {"d4": 1},
    }  # fmt: skip
    best = _open(dataset, Judged(name, keep=Keep(top=1), relabel={2: 1, 1: 9}))
    assert best.candidates(0, best.rows(0)) == ("q1", ["d0"], [1.0])  # picked by its own grade
    assert best.table.to_dict()["q1"] == {"d0": 1, "d1": 9, "d2": 0}  # the others are known still


def test_queries_by_file_and_by_part(dataset: Dataset, tmp_path: Path) -> None:
    for file, text in (("a.txt", "q2\nq9\n"), ("b.tsv", "qid\ttext\nq2\tx y\n"), ("c.jsonl", '{"_id": "q2"}\n')):
        (tmp_path / file).write_text(text)
        assert list(_supervise(dataset, Judged(dataset.name, queries=str(tmp_path / file)))) == ["q2"]
    (tmp_path / "a.txt").write_text("nobody\n")
    with pytest.raises(RecipeError, match="names none of its 3 queries"):
        _open(dataset, Judged(dataset.name, queries=str(tmp_path / "a.txt")))
    names = [f"q{i}" for i in range(1000)]
    small, large = in_fraction(names, 0.1), in_fraction(names, 0.4)
    assert 60 < small.sum() < 140
    assert 330 < large.sum() < 470
    assert (large | ~small).all()


def test_teacher_scores_below_zero_are_supervision_too(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "scores.tsv"
    path.write_text("q1\td0\t-1.5\nq1\td1\t-3.25\nq3\td4\t2e-1\n")
    expected = {"q1": {"d0": -1.5, "d1": -3.25}, "q3": {"d4": 0.2}}
    assert _supervise(dataset, Scored(dataset.name, str(path))) == expected
    path.write_text("q1\tabsent\t-1.5\n")
    with pytest.raises(DataError, match="'absent'"):
        _open(dataset, Scored(dataset.name, str(path)))


def test_scores_and_places_are_no_judgements_but_thresholds_and_grades_are(dataset: Dataset, tmp_path: Path) -> None:
    """What is above 0 among `judged` is withheld from a query's in-batch negatives, and nothing else is."""
    name, paths = dataset.name, {kind: str(tmp_path / f"{kind}.tsv") for kind in ("scores", "qrels", "run")}
    Path(paths["scores"]).write_text("q1\td0\t-1.5\nq1\td1\t6\nq1\td2\t4\nq2\td3\t-4\n")
    Path(paths["qrels"]).write_text("q1\td0\t1\nq1\td2\t0\n")
    Path(paths["run"]).write_text("q1 Q0 d0 1 9 t\nq1 Q0 d1 2 8 t\n")
    scored, judged = Scored(name, paths["scores"]), Judged(name, qrels=paths["qrels"])
    scores = {"q1": {"d0": -1.5, "d1": 6.0, "d2": 4.0}, "q2": {"d3": -4.0}}
    cases: list[tuple[list[Source], dict[str, dict[str, float]]]] = [
        ([scored], {"q1": {}, "q2": {}}),
        ([Ranking(name, paths["run"])], {"q1": {}}),
        ([judged, scored], {"q1": {"d0": 1, "d2": 0}, "q2": {}}),
        ([Scored(name, paths["scores"], relevant_from=4)], {"q1": {"d0": 0, "d1": 1, "d2": 1}, "q2": {"d3": 0}}),
        (
            [Scored(name, paths["scores"], relevant_from=-2), judged],
            {"q1": {"d0": 1, "d1": 1, "d2": 0}, "q2": {"d3": 0}},
        ),
    ]
    for sources, expected in cases:
        supervision = _open(dataset, *sources)
        assert supervision.judged.to_dict() == expected, sources
        if sources[-1] == scored:
            assert supervision.table.to_dict() == scores
        everything = np.arange(len(supervision)), np.arange(len(supervision.docs))
        found = {
            (supervision.queries[int(q)], supervision.docs[int(d)]): value
            for q, d, value in zip(*supervision.pairs(*everything))
        }
        assert found == {(query, doc): grade for query, docs in expected.items() for doc, grade in docs.items()}
    one, other = (_open(dataset, Scored(name, paths["scores"], relevant_from=limit)) for limit in (None, 4))
    assert one.fingerprint != other.fingerprint
    with pytest.raises(RecipeError, match="no query has a document with a target above 0"):
        _open(dataset, judged, Ranking(name, paths["run"], grade=0))


def test_a_ranking_gives_targets_by_rank_score_or_constant(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text("q1 Q0 d1 1 -0.5 t\nq1 Q0 d0 2 -2 t\nq1 Q0 d2 3 -3 t\nq2 Q0 d0 1 7 t\n")
    run = str(tmp_path / "run.trec")
    of = lambda **more: _supervise(dataset, Ranking(dataset.name, run, **more))  # noqa: E731
    assert of() == {"q1": {"d0": 1 / 2, "d1": 1, "d2": 1 / 3}, "q2": {"d0": 1}}
    assert of(depth=2, target="rank") == {"q1": {"d0": 1, "d1": 2}, "q2": {"d0": 1}}
    assert of(target="score") == {"q1": {"d0": -2.0, "d1": -0.5, "d2": -3.0}, "q2": {"d0": 7}}  # log-probabilities, say
    assert of(depth=1, grade=4) == {"q1": {"d1": 4}, "q2": {"d0": 4}}


def test_triples_become_grades(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "triples.tsv"
    path.write_text("q1\td0\td1\nq1\td0\td2\nq2\td3\td1\n")
    assert _supervise(dataset, Triples(dataset.name, str(path))) == {
        "q1": {"d0": 1, "d1": 0, "d2": 0}, "q2": {"d1": 0, "d3": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Scored("a", ""), "scores is empty"),
        (lambda: Scored("a", "b", relevant_from=float("nan")), "relevant_from is nan"),
        (lambda: Ranking("a", "r", depth=0), "depth is 0"),
        (lambda: Ranking("a", "r", target="best"), "target is 'best'"),  # type: ignore[arg-type]
        (lambda: Triples("a", ""), "triples is empty"),
        (lambda: Keep(), "keep is given nothing"),
        (lambda: Keep(top=1, random=2), "keep is given top, random"),
        (lambda: Keep(bottom=0), "bottom is 0"),
    ],
)
def test_what_the_others_may_not_say(make, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        make()
    assert caught.value.fix
