"""Teachers end to end: a recipe with a live teacher, with stored scores, resumed; the verb `score`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rankwright import storage, teaching
from rankwright.cli import main
from rankwright.data import Dataset, Reading, read_run
from rankwright.errors import RankwrightError
from rankwright.loading import choices, load_recipe, rooted
from rankwright.models import load
from rankwright.training import Step

RECIPE = """
name: taught
model: {{Dense: {{backbone: {model}, similarity: dot}}}}
stages:
  - data: [Judged: {{dataset: {data}}}]
    group: {{OneRelevant: {{negatives: 1}}}}
    batches: {{Shuffled: {{size: 4}}}}
    objective:
      - {{loss: InfoNCE, dims: [32, 8]}}
      - loss: {{MarginMSE: {{pairs: first}}}}
        against: others
        weight: 0.75
        teacher: {teacher}
    train: {{learning_rate: 1.0e-3, steps: 6, save_every: 2}}
"""


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; one stands in an empty folder."""
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def write(name: str, model: Path, data: Path, teacher: object) -> str:
    Path(name).write_text(RECIPE.format(model=model, data=data, teacher=teacher))
    return name


def weights(folder: str) -> dict[str, str]:
    return {n: f["sha256"] for n, f in storage.read_manifest(f"{folder}/model").files.items() if "safetensors" in n}


def test_a_live_teacher_its_cache_and_its_file_teach_the_same(cached: Path, tiny_model: Path, tiny_data: Path, capsys):
    live = write("live.yaml", tiny_model, tiny_data, f"{{Dense: {{backbone: {tiny_model}}}}}")
    main(["train", live, "--folder", "cold"])
    files = {path: path.read_bytes() for path in (cached / "teachers").rglob("*.jsonl")}
    assert len(files) == 1
    main(["train", live, "--folder", "warm"])
    assert {path: path.read_bytes() for path in (cached / "teachers").rglob("*.jsonl")} == files
    assert weights("warm") == weights("cold")
    log = storage.read_lines("cold/stage-1/train/log.jsonl")
    assert [record["missing"] for record in log] == [0] * 6
    assert all(np.isfinite(record["loss"]) for record in log)


def test_a_run_that_died_goes_on_to_the_same_bits(cached: Path, tiny_model: Path, tiny_data: Path, monkeypatch):
    """It dies behind a step that the teacher was asked for and no checkpoint holds; each run has a cache of its own."""
    recipe = write("live.yaml", tiny_model, tiny_data, f"{{Dense: {{backbone: {tiny_model}}}}}")
    step = Step.__call__

    def dying(self, batch, **arguments):
        result = step(self, batch, **arguments)
        if arguments["step"] == 4:
            raise SystemError("killed")
        return result

    main(["train", recipe, "--folder", "whole"])
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(cached.with_name("another")))
    with monkeypatch.context() as patched:
        patched.setattr(Step, "__call__", dying)
        with pytest.raises(SystemError):
            main(["train", recipe, "--folder", "cut"])
    main(["train", recipe, "--folder", "cut"])
    assert weights("cut") == weights("whole")
    losses = [[r["loss"] for r in storage.read_lines(f"{n}/stage-1/train/log.jsonl")] for n in ("cut", "whole")]
    assert losses[0] == losses[1]


def test_a_recipe_with_stored_scores_counts_what_they_lack(cached: Path, tiny_model: Path, tiny_data: Path, capsys):
    main(["score", str(tiny_data), "--model", str(tiny_model), "--pairs", "train", "--out", "scores.trec"])
    stored = write("stored.yaml", tiny_model, tiny_data, "scores.trec")
    main(["train", stored, "--folder", "stored"])
    assert all(record["missing"] > 0 for record in storage.read_lines("stored/stage-1/train/log.jsonl"))
    capsys.readouterr()
    main(["check-gradients", stored, "--queries", "4"])
    assert "DIFFERENT" not in capsys.readouterr().out


def test_score_says_what_the_model_says_and_goes_on_where_it_was(
    cached: Path, tiny_model: Path, tiny_data: Path, monkeypatch
):
    command = ["score", str(tiny_data), "--model", str(tiny_model), "--pairs", "train", "--out"]
    main([*command, "one.trec"])
    dataset, ranker = Dataset.open(str(tiny_data)), load(str(tiny_model))
    qrels, found = dataset.qrels("train"), read_run(Path("one.trec")).to_dict()
    assert {q: set(docs) for q, docs in found.items()} == {q: set(docs) for q, docs in qrels.to_dict().items()}
    for query, docs in found.items():
        text = dataset.queries[int(dataset.queries.rows([query])[0])].text
        asked = ranker.represent(ranker.tokenize([text], "query"), "query")
        for doc, value in docs.items():
            document = ranker.render(dataset.corpus[int(dataset.corpus.rows([doc])[0])])
            known = ranker.represent(ranker.tokenize([document], "doc"), "doc")
            assert value == pytest.approx(float(ranker.compare(asked, known).detach()), abs=1e-5)
    monkeypatch.setattr("rankwright.training.teachers.Live._made", None)  # whatever is not in the store
    monkeypatch.setattr("rankwright.assemble.rerank_run", lambda *given, **more: pytest.fail("a pair is scored twice"))
    main([*command, "two.trec"])
    assert Path("two.trec").read_bytes() == Path("one.trec").read_bytes()
    main([*command[:5], "one.trec", "--out", "three.trec"])
    assert Path("three.trec").read_bytes() == Path("one.trec").read_bytes()
    main(["score", str(tiny_data), "--model", str(tiny_model), str(tiny_model), "--pairs", "train", "--out", "m.trec"])
    assert read_run(Path("m.trec")).to_dict() == found


def test_what_cannot_be_scored_is_said(cached: Path, tiny_model: Path, tiny_data: Path, capsys):
    Path("strange.tsv").write_text("q01 0 nowhere 1\n")
    command = ["score", str(tiny_data), "--model", str(tiny_model), "--out", "s.trec", "--pairs"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "strange.tsv"])
    assert ended.value.code == 3
    assert "'nowhere' has no text" in capsys.readouterr().err


def test_a_recipe_means_its_teachers_by_content(cached: Path, tiny_model: Path, tiny_data: Path):
    Path("a.trec").write_text("q01 Q0 d01 1 2.5 x\n")
    plan = rooted(
        load_recipe(write("t.yaml", tiny_model, tiny_data, f"[a.trec, {{Dense: {{backbone: {tiny_model}}}}}]"))
    )
    named, _ = plan.stages[0].objective[1].taught_by
    assert named == str(Path("a.trec").absolute())
    assert "a.trec" not in str(choices(plan))
    assert str(tiny_model) not in str(choices(plan))
    before = teaching.identity(plan.stages[0].objective, reading=Reading(), device="cpu")
    Path("a.trec").write_text("q01 Q0 d01 1 2.6 x\n")
    after = teaching.identity(plan.stages[0].objective, reading=Reading(), device="cpu")
    assert before["teachers"] != after["teachers"]
    assert teaching.identity(plan.stages[0].objective[:1], reading=Reading(), device="cpu") == {}
    Path("a.trec").unlink()
    with pytest.raises(RankwrightError):
        teaching.identity(plan.stages[0].objective, reading=Reading(), device="cpu")


def test_a_file_that_scores_nothing_of_the_data_is_refused_and_gaps_are_told(cached, tiny_model, tiny_data, capsys):
    Path("strange.trec").write_text("x1 Q0 z1 1 3.0 t\n")
    Path("docs.trec").write_text("q01 Q0 z1 1 3.0 t\n")
    for name, what in (("strange.trec", "scores no query"), ("docs.trec", "scores no document")):
        with pytest.raises(SystemExit):
            main(["train", write("s.yaml", tiny_model, tiny_data, name), "--folder", "strange"])
        assert what in capsys.readouterr().err
    Path("gaps.trec").write_text("q01 Q0 d01 1 3.0 t\nq01 Q0 d05 2 1.0 t\n")
    main(["train", write("g.yaml", tiny_model, tiny_data, "gaps.trec"), "--folder", "gaps"])
    missing = sum(record["missing"] for record in storage.read_lines("gaps/stage-1/train/log.jsonl"))
    assert f"{missing:,} pairs did not count, because a teacher has no score for them" in capsys.readouterr().err


def test_lists_that_teach_nothing_are_told(cached, tiny_model, tiny_data, capsys):
    recipe = write("one.yaml", tiny_model, tiny_data, "null")
    lone = ["stages.0.group={PerGrade: {counts: {2: 1}}}", "stages.0.objective=[{loss: ListNet, against: own}]"]
    main(["train", recipe, *lone, "--folder", "one"])
    assert "6 steps had no gradient" in capsys.readouterr().err


def test_mining_needs_to_know_what_is_relevant(cached, tiny_model, tiny_data, capsys):
    """Scores are no judgements: without any, and without a threshold, there is nothing that negatives must not be."""
    Path("scores.tsv").write_text("q01\td01\t6.5\nq01\td05\t-2\nq02\td04\t7\n")
    recipe = write("mine.yaml", tiny_model, tiny_data, "null")
    mined = ["stages.0.mine={depth: 5}", "stages.0.objective=[{loss: InfoNCE}]"]
    data = f"stages.0.data=[{{Scored: {{dataset: {tiny_data}, scores: scores.tsv}}}}]"
    with pytest.raises(SystemExit):
        main(["train", recipe, *mined, data, "--folder", "refused"])
    assert "known to be relevant" in capsys.readouterr().err
    assert not Path("refused/vectors").exists()
    main(["train", recipe, *mined, data.replace("tsv}", "tsv, relevant_from: 5}"), "--folder", "mined"])
    negatives = {tuple(line.split()[:2]) for line in Path("mined/stage-1/negatives.tsv").read_text().splitlines()[1:]}
    assert negatives
    assert not negatives & {("q01", "d01"), ("q02", "d04")}
