"""From DPR's JSON with strata to a model: stages in turn, stopped in the middle of a cycle; what a cycle refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rankwright import recipe, signals, storage
from rankwright.cli import main
from rankwright.errors import RecipeError, Stopped
from rankwright.pipeline import Pipeline
from rankwright.plan import Recipe
from rankwright.training import loop

WORDS = ["bread", "tides", "tea", "moon", "flour", "rain", "stone", "glass"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight samples in two wordings each, as SR-DPR writes them, converted."""
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    passages = [{"title": word, "text": f"all about {word}"} for word in WORDS]
    samples = [
        {"sample_id": i, "questions": [f"what is {word}?", f"tell me of {word}"], "positive_contexts": [passages[i]],
         "hardneg_contexts": [passages[(i + n) % 8] for n in (1, 2)] if i % 4 else []}
        for i, word in enumerate(WORDS)
    ]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    main(["convert", str(tmp_path / "train.jsonl"), "--strata", "--out", str(tmp_path / "data"), "--quiet"])
    return tmp_path / "data"


def plan_of(data: Path, model: Path, **first) -> Recipe:
    source = {"Judged": {"dataset": str(data), "split": "train"}}
    common = {"data": [source], "batches": {"Shuffled": {"size": 3, "repeats": True, "drop_last": True}}}

    def term(against: str, upper: str, lower: str) -> list[dict]:
        return [{"loss": "InfoNCE", "against": against, "strata": {"upper": upper, "lower": lower}}]

    pos = common | {
        "name": "pos", "repeats": 2, "samples": str(data / "samples.tsv"), "group": {"PerGrade": {"counts": {"2": 1}}},
        "drawn": {"size": 3}, "objective": term("drawn", "positive", "random"),
        "train": {"steps": 7, "learning_rate": 1e-3, "accumulate": 2, "warmup": 0, "save_every": 100},
    }  # fmt: skip
    poshard = common | {
        "name": "poshard", "group": {"PerGrade": {"counts": {"2": 1, "1": 2}, "every": True}},
        "objective": term("own", "positive", "hard"),
    }  # fmt: skip
    hard = common | {
        "name": "hard", "group": {"PerGrade": {"counts": {"1": 1}, "every": True}}, "drawn": {"size": 3, "rest": True},
        "objective": term("drawn", "hard", "random"),
    }  # fmt: skip
    model_spec = {"Dense": {"backbone": str(model), "doc_backbone": str(model), "freeze_docs": True, "doc_length": 24}}
    return recipe.build(
        Recipe, {"model": model_spec, "order": "cycle", "stages": [pos | first, poshard, hard], "device": "cpu"}
    )


def test_a_cycle_from_json_to_a_model_stopped_in_between(data: Path, tiny_model: Path, tmp_path: Path, monkeypatch):
    plan = plan_of(data, tiny_model)
    whole = Pipeline(plan, folder=tmp_path / "whole").train()
    log = storage.read_lines(tmp_path / "whole/stage-1/train/log.jsonl")
    assert [record["stage"] for record in log] == ["pos", "pos", "poshard", "hard", "pos", "pos", "poshard"]
    assert {record["queries"] for record in log if record["stage"] == "pos"} == {6}

    write = loop._Loop._log

    def stop_at_3(self, record):
        write(self, record)
        if record["step"] == 3 and len(storage.read_lines(self.folder / "log.jsonl")) == 3:
            signals._requested.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_log", stop_at_3)
        with pytest.raises(Stopped):
            Pipeline(plan, folder=tmp_path / "parts").train()
        signals._requested.clear()
    again = Pipeline(plan, folder=tmp_path / "parts").train()
    for side in ("query", "doc"):
        one, other = (load_file(folder / side / "model.safetensors") for folder in (whole, again))
        assert all(one[name].equal(other[name]) for name in one)
        start = load_file(tiny_model / "model.safetensors")
        same = all(one[name].equal(start[name]) for name in one if name in start)
        assert same == (side == "doc")  # which was frozen
    resumed = storage.read_lines(tmp_path / "parts/stage-1/train/log.jsonl")
    assert [r | {"seconds": 0} for r in resumed] == [r | {"seconds": 0} for r in log]


def test_each_part_draws_dropout_of_its_own_steps(data: Path, tiny_model: Path, tmp_path: Path, monkeypatch):
    calls: list[tuple[int, int]] = []
    attempt = loop.Step.__call__

    def noted(self, batch, *, step, **rest):
        calls.append((self.seed, step))
        return attempt(self, batch, step=step, **rest)

    monkeypatch.setattr(loop.Step, "__call__", noted)
    Pipeline(plan_of(data, tiny_model), folder=tmp_path / "run").train()
    seeds = list(dict.fromkeys(seed for seed, _ in calls))
    steps = [[step for seed, step in calls if seed == own] for own in seeds]
    assert steps == [list(range(8)), [0, 1], [0]]  # two batches a step of the first


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"order": "sequence"}, "stages follow one another once"),
        ({"stages.1.train": {"steps": 3}}, "a cycle has one optimizer"),
        ({"stages.1.validate": {"dataset": "x"}}, "validated as its first stage"),
        ({"stages.0.repeats": 0}, "repeats must be at least 1"),
        ({"stages.0.name": "a b"}, "name is 'a b'"),
        ({"stages.0.drawn": None}, "the stage draws none"),
        ({"stages.0.objective.0.strata": {"upper": "hard", "lower": "hard"}}, "both upper and lower"),
        ({"stages.0.objective.0.strata": {"upper": "hard", "lower": "random"}}, "no document of the upper stratum"),
        ({"stages.1.objective.0.strata.lower": "random"}, "no document of the lower stratum"),
        ({"stages.1.name": "pos"}, "two are called 'pos'"),
    ],
)
def test_what_a_cycle_refuses(changes: dict, what: str, data: Path, tiny_model: Path):
    text = recipe.dump(plan_of(data, tiny_model))
    given = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    with pytest.raises(RecipeError, match=what):
        recipe.loads(text, Recipe, overrides=given)
    assert recipe.loads(text, Recipe, overrides=["stages.1.train.accumulate=3"]).stages[1].train.accumulate == 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"stages.0.group.PerGrade.counts": {"7": 1}, "stages.0.objective.0.strata.upper": 7}, "has the grade 7"),
        ({"stages.0.objective.0.strata.lower": [8, 9]}, "has the grade 8, 9"),
        ({"stages.1.group.PerGrade.counts": {"2": 1, "1": 1, "5": 1}}, "each of the grades 2, 1, 5"),
    ],
)
def test_grades_that_the_data_lack_are_refused_before_the_work(changes, what, data, tiny_model, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(recipe.dump(plan_of(data, tiny_model)))
    given = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    with pytest.raises(SystemExit) as caught:
        main(["run", str(tmp_path / "r.yaml"), *given, "--dry-run"])
    assert caught.value.code == 2
    assert what in capsys.readouterr().err
    with pytest.raises(RecipeError, match=what):
        Pipeline(recipe.load(tmp_path / "r.yaml", Recipe, overrides=given), folder=tmp_path / "run").train()
