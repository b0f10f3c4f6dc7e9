"""A late-interaction recipe from judgements to report, and the verbs on what it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankwright import storage
from rankwright.cli import main
from rankwright.data import read_run

RECIPE = """
model:
  Late: {{backbone: {model}, dim: 16, query_length: 16, doc_length: 48}}
stages:
  - data:
      - Judged: {{dataset: {data}, split: train}}
    mine: {{by: model, depth: 10, keep: {{ranks: [1, 10], per_query: 2, margin: 0.01}}}}
    group: {{OneRelevant: {{negatives: 1}}}}
    batches: {{Shuffled: {{size: 4}}}}
    objective:
      - {{loss: {{InfoNCE: {{temperature: 0.5}}}}, against: batch}}
    train: {{learning_rate: 1e-3, steps: 4}}
    validate: {{dataset: {data}, split: test, measure: nDCG@10, every: 2}}
evaluate:
  - {{dataset: {data}, split: test, measures: [nDCG@10, R@5], baselines: [start]}}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "late.yaml"
    path.write_text(RECIPE.format(model=tiny_model, data=tiny_data))
    monkeypatch.chdir(tmp_path)
    return path


def test_from_judgements_to_a_report_and_on_with_the_verbs(recipe: Path, tiny_data: Path, capsys):
    main(["run", str(recipe)])
    assert "after training" in capsys.readouterr().out
    folder, data = recipe.parent / "runs" / "late", str(tiny_data)
    assert storage.verify(folder / "model", "model", full=True)
    metrics = json.loads((folder / "evaluation/data-test/metrics.json").read_text())
    assert set(metrics["systems"]) == {"before training", "after training"}
    main(["run", str(recipe), "--json"])
    assert all(step["reused"] for step in json.loads(capsys.readouterr().out)["steps"])

    model = str(folder / "model")
    main(["encode", model, data, "--out", "v", "--dtype", "float16"])
    assert storage.read_manifest("v").kind == "token-vectors"
    main(["search", "v", data, "--model", model, "--split", "test", "--k", "7", "--out", "late.trec"])
    found, trained = read_run(Path("late.trec")), read_run(folder / "evaluation/data-test/trained.trec")
    assert {len(docs) for _, docs, _ in found} == {7}
    whole = trained.to_dict()
    for query, docs, scores in found:  # float16 turns a score by little
        assert [whole[query][doc] for doc in docs] == pytest.approx(scores.tolist(), rel=5e-3)
    main(["mine", data, "--model", model, "--out", "n.tsv", "--relative-margin", "0.01"])
    assert Path("n.tsv").read_text()
    capsys.readouterr()
    main(["show", "v"])
    assert "token-vectors" in capsys.readouterr().out
    main(["check-gradients", str(recipe), "--json"])
    assert json.loads(capsys.readouterr().out)["passed"]


def test_validation_may_rank_a_given_run(recipe: Path, tiny_data: Path):
    lines = [f"q09 Q0 d{i:02} {i} {20 - i} x\n" for i in range(1, 9)]
    (recipe.parent / "some.trec").write_text("".join(lines))
    main(["train", str(recipe), "stages.0.validate.candidates=some.trec", "stages.0.mine=null"])
    assert (recipe.parent / "runs/late/model/modules.json").is_file()
