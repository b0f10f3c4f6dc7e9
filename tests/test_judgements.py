"""Open-domain questions from end to end: answers alone or beside judgements, in a recipe and by `evaluate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rankwright import api, recipe
from rankwright.cli import main
from rankwright.data import Dataset
from rankwright.data.query_files import read_topics
from rankwright.errors import DataError, RecipeError
from rankwright.plan import Recipe

QUESTIONS = [("q01", ["wild yeast"]), ("q02", ["sun", "the moon"]), ("q09", ["no such words"])]


@pytest.fixture
def asked(tmp_path: Path, tiny_data: Path) -> Path:
    """The tiny data set with answers to three questions, two of which nobody judged in the split."""
    folder = tmp_path / "asked"
    shutil.copytree(tiny_data, folder)
    (folder / "answers").mkdir()
    lines = [json.dumps({"_id": key, "answers": answers}) for key, answers in QUESTIONS]
    (folder / "answers" / "test.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def carried_out(tmp_path: Path, model: Path, **evaluation) -> api.Result:
    tree = {"model": {"Dense": {"backbone": str(model)}}, "evaluate": [evaluation]}
    return api.run(recipe.build(Recipe, tree), folder=tmp_path / "run")


def test_answers_alone_are_evidence_in_a_recipe(tmp_path, tiny_model, asked):
    shutil.rmtree(asked / "qrels")
    measures = ["Accuracy@1", "Accuracy@20"]
    result = carried_out(tmp_path, tiny_model, dataset=str(asked), measures=measures)
    scores = result.scores["asked-test"]["BM25"]
    assert scores.queries == ("q01", "q02", "q09")
    assert scores.column("Accuracy@20").tolist() == [1, 1, 0]
    assert "Accuracy@20" in result.report.read_text()
    metrics = json.loads((tmp_path / "run/evaluation/asked-test/metrics.json").read_text())
    assert metrics["definitions"]["Accuracy@1"] == "an answer's tokens in the passage"


def test_answers_beside_judgements_in_one_report(tmp_path, tiny_model, asked, capsys):
    result = carried_out(tmp_path, tiny_model, dataset=str(asked), measures=["nDCG@10", "Accuracy@5"])
    assert result.scores["asked-test"]["before training"].queries == ("q09",)
    assert "are left out" in capsys.readouterr().err


def test_a_recipe_names_another_file_of_answers(tmp_path, tiny_model, asked):
    (tmp_path / "qa.csv").write_text("how does sourdough bread rise\t['yeast']\n")
    given = {"dataset": str(asked), "questions": str(tmp_path / "qa.csv"), "measures": ["Accuracy@5"]}
    assert carried_out(tmp_path, tiny_model, **given).scores["asked-test"]["BM25"].queries == ("q01",)


def test_answers_and_samples_come_along_from_one_data_set_to_another(tmp_path, asked, capsys):
    (asked / "samples.tsv").write_text("q01\t7\nq02\t7\n")
    main(["convert", str(asked), "--out", str(tmp_path / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["counts"]["questions with answers"] == 3
    assert Dataset.open(tmp_path / "out").answers("test") == {key: tuple(texts) for key, texts in QUESTIONS}
    assert read_topics(tmp_path / "out" / "samples.tsv") == {"q01": "7", "q02": "7"}


def test_what_cannot_be_measured_is_refused_before_the_work(tmp_path, tiny_model, asked):
    shutil.rmtree(asked / "answers")
    with pytest.raises(DataError, match="no answers of a split 'test'"):
        carried_out(tmp_path, tiny_model, dataset=str(asked), measures=["Accuracy@5"])
    with pytest.raises(RecipeError, match="no measure looks for their answers"):
        carried_out(tmp_path, tiny_model, dataset=str(asked), questions="a.csv", measures=["nDCG@10"])


def test_evaluate_with_passages_answers_and_retrieval_output(tmp_path, capsys):
    (tmp_path / "psgs.tsv").write_text('id\ttext\ttitle\n1\t"In ""Ulm"", 1879"\tA\n2\tnothing\tUlm\n3\tnever read\tC\n')
    (tmp_path / "qa.csv").write_text("where was he born\t['Ulm']\nwhen\t['1878', '1879']\nwho\t['x']\n")
    (tmp_path / "a.trec").write_text("1 Q0 1 1 9 t\n0 Q0 2 1 2.5 t\n0 Q0 1 2 1.5 t\n")
    options = ["--questions", str(tmp_path / "qa.csv"), "--passages", str(tmp_path / "psgs.tsv")]
    run, found = str(tmp_path / "a.trec"), tmp_path / "found.json"
    main(["evaluate", run, *options, "--json", "--retrieved", str(found), "--contexts", "2"])
    means = json.loads(capsys.readouterr().out)["systems"]["a"]["mean"]
    assert means == pytest.approx({f"Accuracy@{k}": v for k, v in zip((1, 5, 20, 50, 100), (1 / 3, *[2 / 3] * 4))})
    first, _, last = json.loads(found.read_text())  # as many as there are questions, in their order
    assert last == {"question": "who", "answers": ["x"], "ctxs": []}
    assert first["question"] == "where was he born"
    assert first["answers"] == ["Ulm"]
    assert first["ctxs"] == [
        {"id": "2", "title": "Ulm", "text": "nothing", "score": 2.5, "has_answer": False},
        {"id": "1", "title": "A", "text": 'In "Ulm", 1879', "score": 1.5, "has_answer": True},
    ]
    main(["evaluate", run, "--questions", str(found), *options[2:], "--json"])  # what was written is read
    assert json.loads(capsys.readouterr().out)["systems"]["a"]["mean"] == means
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n0\t1\t1\n")
    main(["evaluate", run, *options, "--qrels", str(qrels)])
    text = capsys.readouterr().out
    assert "nDCG@10" in text
    assert "Accuracy@100" in text
    assert "--passages" in text
    (tmp_path / "b.trec").write_text("0 Q0 1 1 2.5 t\n")
    main(["compare", run, str(tmp_path / "b.trec"), *options, "--out", str(tmp_path / "compared"), "--json"])
    systems = json.loads(capsys.readouterr().out)["systems"]
    assert {name: found["mean"]["Accuracy@1"] for name, found in systems.items()} == pytest.approx(
        {"a": 1 / 3, "b": 1 / 3}
    )
    assert "where was he born" not in (tmp_path / "compared" / "per_query.tsv").read_text()
    main(["compare", run, str(tmp_path / "b.trec"), *options, "--qrels", str(qrels), "--measures", "Accuracy@1", "P@1"])
    text = capsys.readouterr().out
    assert "P@1" in text
    assert f"compare {run}" in text
    assert "--questions" in text


@pytest.mark.parametrize(
    "options",
    [
        [], ["--questions", "a"], ["--data", "d", "--qrels", "q"], ["--retrieved", "r", "--qrels", "q"],
        ["--questions", "a", "--data", "d", "--passages", "p"], ["--questions", "a", "--data", "d", "--contexts", "0"],
        ["--questions", "a", "--data", "d", "--retrieved", "."],
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(options):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "run.trec", *options])
    assert caught.value.code == 2
