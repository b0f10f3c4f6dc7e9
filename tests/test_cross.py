"""Cross-encoders in recipes and on the command line: trained on lists, measured by re-ranking, teaching others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import cli, recipe, teaching
from rankwright.assemble import open_dataset
from rankwright.data import Mixture, Reading, read_run, write_run
from rankwright.errors import DataError, RecipeError
from rankwright.models import Cross, CrossRanker, load
from rankwright.pipeline import Pipeline
from rankwright.plan import Recipe
from rankwright.training.teachers import Live
from rankwright.types import Run


def described(start: Path, data: Path, **changes) -> dict:
    stage = {
        "data": [{"Judged": {"dataset": str(data), "split": "train"}}],
        "group": {"Random": {"size": 4}},
        "batches": {"Shuffled": {"size": 4}},
        "objective": [{"loss": "RankNet", "against": "own"}],
        "train": {"steps": 6, "learning_rate": 1e-3, "workers": 0},
        "mine": {"by": "bm25", "depth": 10, "keep": {"per_query": 4}},
        "validate": {"dataset": str(data), "split": "test", "every": 3, "candidates": "bm25", "depth": 5},
    }
    evaluate = {"dataset": str(data), "measures": ["nDCG@10"], "rerank": {"first": "bm25", "depth": 4, "tail": "keep"}}
    return {
        "model": {"Cross": {"backbone": str(start), "length": 48}},
        "stages": [stage | changes.pop("stage", {})],
        "evaluate": [evaluate | changes.pop("evaluation", {})],
    } | changes


def built(*args, **changes) -> Recipe:
    return recipe.build(Recipe, described(*args, **changes))


def ranker(**fields) -> CrossRanker:
    made = Cross(str(Path(__file__).parent / "tiny" / "model"), **({"length": 48} | fields)).load(seed=2)
    assert isinstance(made, CrossRanker)
    return made


def test_a_recipe_and_the_verbs_from_end_to_end(tmp_path, tiny_model, tiny_data, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(json.dumps(described(tiny_model, tiny_data)))
    cli.main(["run", "r.yaml", "--folder", "run", "--json"])
    made = json.loads(capsys.readouterr().out)
    (means,) = made["means"].values()
    assert list(means) == ["BM25", "before training", "after training"]
    place = next(Path("run/evaluation").iterdir())
    bm25, trained = read_run(place / "bm25.trec"), read_run(place / "trained.trec")
    assert {q: set(d) for q, d in trained.to_dict().items()} == {q: set(d) for q, d in bm25.to_dict().items()}
    assert len(Path("run/stage-1/train/validation.jsonl").read_text().splitlines()) == 2
    assert "re-rank" in Path("run/report.html").read_text()
    cli.main(["run", "r.yaml", "--folder", "run", "--json"])
    assert all(step["reused"] for step in json.loads(capsys.readouterr().out)["steps"])

    first = str(place / "bm25.trec")
    cli.main(["rerank", first, str(tiny_data), "--model", "run/model", "--out", "out.trec", "--depth", "4",
              "--keep-tail"])  # fmt: skip
    assert "next: rankwright evaluate" in capsys.readouterr().out
    again = read_run(Path("out.trec"))
    for query, docs in trained.to_dict().items():
        assert list(again.to_dict()[query].values()) == pytest.approx(list(docs.values()), abs=1e-6)
    models = {"one": "run/model", "two": str(tiny_model)}
    for name, model in models.items():
        cli.main(["rerank", first, str(tiny_data), "--model", model, "--out", f"{name}.trec", "--depth", "4"])
    cli.main(["fuse", "one.trec", "two.trec", "--out", "fused.trec", "--method", "max"])
    cli.main(["rerank", first, str(tiny_data), "--model", *models.values(), "--out", "both.trec", "--depth", "4",
              "--method", "max"])  # fmt: skip
    fused, both = (read_run(Path(f"{name}.trec")).to_dict() for name in ("fused", "both"))
    assert {q: pytest.approx(docs) for q, docs in fused.items()} == both
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["rerank", first, str(tiny_data), "--model", "run/model", "--out", "both.trec", "--norm", "rank"])
    assert "give several models" in capsys.readouterr().err
    cli.main(["score", str(tiny_data), "--model", "run/model", "--pairs", first, "--out", "scores.trec"])
    scored, top = read_run(Path("scores.trec")).to_dict(), bm25.ranked(4).to_dict()
    for query, docs in top.items():
        expected = {doc: again.to_dict()[query][doc] for doc in docs}
        assert {doc: scored[query][doc] for doc in docs} == pytest.approx(expected, abs=1e-5)
    capsys.readouterr()
    cli.main(["check-gradients", "r.yaml", "--json"])
    assert json.loads(capsys.readouterr().out)["passed"]


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"stage": {"objective": [{"loss": "InfoNCE"}]}}, "stages.0.objective.0: against: batch", "against: own"),
        ({"stage": {"objective": [{"loss": "InfoNCE", "against": "others"}]}}, "against: others", "against: own"),
        ({"stage": {"objective": [{"regulariser": "Flops"}]}}, "regularisers", "leave"),
        ({"stage": {"objective": [{"loss": "InfoNCE", "against": "own", "dims": [8]}]}}, "dims", "leave"),
        ({"stage": {"mine": {"by": "model"}}}, "stages.0.mine", "bm25"),
        ({"stage": {"validate": {"dataset": "x"}}}, "stages.0.validate", "candidates: bm25"),
        ({"evaluation": {"rerank": None}}, "evaluate.0", "rerank: {first: bm25, depth: 100}"),
        ({"evaluation": {"rerank": {"depth": 200}, "depth": 100}}, "200 documents", "depth: 200"),
    ],
)
def test_what_a_cross_encoder_cannot_do_is_refused_before_any_work(changes, what, fix, tiny_model, tiny_data):
    with pytest.raises(RecipeError) as caught:
        built(tiny_model, tiny_data, **changes)
    assert what in str(caught.value)
    assert fix in str(caught.value)


def test_a_given_first_stage_is_a_baseline(tmp_path, tiny_model, tiny_data):
    write_run(tmp_path / "first.trec", Run.from_dict({
        "q09": {"d01": 3.0, "d02": 2.0, "d20": 1.0}, "q10": {"d04": 2.0, "d05": 1.0}, "q99": {"d01": 1.0},
    }))  # fmt: skip
    how = {"rerank": {"first": str(tmp_path / "first.trec"), "depth": 2}, "baselines": ["start"]}
    plan = built(tiny_model, tiny_data, stages=[], evaluation=how)
    outcome = Pipeline(plan, folder=tmp_path / "run").run()
    runs = outcome.evaluated[0].runs
    assert list(runs) == ["first stage", "before training"]
    assert runs["first stage"].to_dict()["q09"] == {"d01": 3.0, "d02": 2.0, "d20": 1.0}
    assert {query: set(docs) for query, docs in runs["before training"].to_dict().items()} == {
        "q09": {"d01", "d02"}, "q10": {"d04", "d05"},
    }  # fmt: skip
    write_run(tmp_path / "first.trec", Run.from_dict({"q99": {"d01": 1.0}}))
    with pytest.raises(DataError, match="none of the 8 judged"):
        Pipeline(plan, folder=tmp_path / "other").check()


def test_a_dense_model_may_be_measured_by_re_ranking_too(tmp_path, tiny_model, tiny_data):
    how = {"rerank": {"depth": 3}, "baselines": ["start"]}
    plan = built(tiny_model, tiny_data, model={"Dense": {"backbone": str(tiny_model)}}, stages=[], evaluation=how)
    (run,) = Pipeline(plan, folder=tmp_path / "run").run().evaluated[0].runs.values()
    assert max(len(docs) for docs in run.to_dict().values()) == 3


def test_a_cross_encoder_teaches_over_lists_and_batches(tmp_path, tiny_data):
    teacher, mixture = ranker(), Mixture.of(open_dataset(str(tiny_data), reading=Reading(), cache=tmp_path))
    queries, docs = ["q01", "q02"], ["d01", "d04", "d05"]
    wanted = np.array([[True, False, True], [False, True, False]])
    texts = {"query": mixture.queries, "doc": mixture.corpus}

    def alone(query: str, doc: str) -> float:
        words = [texts[side][int(texts[side].rows([name])[0])] for side, name in (("query", query), ("doc", doc))]
        sides = teacher.tokenize([words[0].text], "query"), teacher.tokenize([teacher.render(words[1])], "doc")
        with torch.no_grad():
            return float(teacher.represent(teacher.pairing(*sides), "doc").values)

    with teaching.live(teacher, mixture) as live:
        assert isinstance(live, Live)
        some = live.score(queries, docs, wanted=wanted)
        assert np.isnan(some).tolist() == (~wanted).tolist()
        everything = live.score(queries, docs)
    expected = [[alone(query, doc) for doc in docs] for query in queries]
    assert everything == pytest.approx(np.array(expected), abs=1e-5)
    assert (some[wanted] == everything[wanted]).all()


def test_a_dense_student_learns_from_a_cross_encoder_in_a_recipe(tmp_path, tiny_model, tiny_data):
    ranker().save(tmp_path)
    terms = [
        {"loss": "MarginMSE", "against": "own", "teacher": {"Cross": {"backbone": str(tmp_path)}}},
        {"loss": "KLDivergence", "against": "batch", "teacher": {"Cross": {"backbone": str(tmp_path)}}, "weight": 0.1},
    ]
    plan = built(tiny_model, tiny_data, model={"Dense": {"backbone": str(tiny_model)}}, evaluate=[],
                 stage={"objective": terms, "validate": None})  # fmt: skip
    model = Pipeline(plan, folder=tmp_path / "run").train()
    assert load(model).vectors_per_text == "one"


def test_a_cross_encoder_learns_from_another_ranker(tmp_path, tiny_model, tiny_data):
    teacher = {"Dense": {"backbone": str(tiny_model)}}
    plan = built(tiny_model, tiny_data, evaluate=[],
                 stage={"objective": [{"loss": "KLDivergence", "against": "own", "teacher": teacher}]})  # fmt: skip
    first = Pipeline(plan, folder=tmp_path / "run").train()
    assert load(first).vectors_per_text == "none"
