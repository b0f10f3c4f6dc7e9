"""Long documents and conversations from the command line: gradients of chunks, a trained run, turns and pools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rankwright import storage
from rankwright.cli import main
from rankwright.data import Dataset, Reading, read_run
from rankwright.models import Chunks, load

RECIPE = """\
model: {{{model}}}
stages:
  - data: [{{Judged: {{dataset: {data}, split: train}}}}]
    group: {{Random: {{size: 2}}}}
    batches: {{Shuffled: {{size: 3}}}}
    objective: [{{loss: {{InfoNCE: {{temperature: 0.05}}}}, against: {against}}}]
    train: {{steps: 2}}
evaluate: [{{dataset: {data}, split: test, depth: 10, baselines: [bm25]{rerank}}}]
"""
CHUNKED = {
    "best chunk": "Dense: {backbone: MODEL, chunks: {length: 16, overlap: 4}}",
    "two best": "Dense: {backbone: MODEL, chunks: {length: 16, overlap: 4, score: top, top: 2}}",
    "mean": "Dense: {backbone: MODEL, chunks: {length: 16, overlap: 4, score: mean}}",
    "late": "Late: {backbone: MODEL, query_length: 8, chunks: {length: 16, overlap: 4}}",
    "cross": "Cross: {backbone: MODEL, chunks: {length: 32, overlap: 4}}",
    "extended": "Dense: {backbone: MODEL, positions: 200, gradient_checkpointing: true}",
}


@pytest.fixture(params=CHUNKED)
def written(request, tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    cross = request.param == "cross"
    text = RECIPE.format(
        model=CHUNKED[request.param].replace("MODEL", str(tiny_model)), data=tiny_data,
        against="own" if cross else "batch", rerank=", rerank: {first: bm25, depth: 5}" if cross else "",
    )  # fmt: skip
    Path("recipe.yaml").write_text(text)
    return Path("recipe.yaml")


def test_every_way_of_the_step_has_the_gradient_of_plain_autograd(written: Path, capsys: pytest.CaptureFixture):
    main(["check-gradients", str(written), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert len(found["checks"]) >= 5
    assert all(way["gradient"] <= 1e-12 for way in found["checks"])


def test_a_run_trains_and_ranks_documents(written: Path):
    main(["run", str(written), "--folder", "made"])
    log = storage.read_lines("made/stage-1/train/log.jsonl")
    assert all(np.isfinite(record["loss"]) for record in log)
    ranker = load("made/model")
    if "chunks" in written.read_text():
        assert isinstance(getattr(ranker, "chunks"), Chunks)  # noqa: B009 - each kind of ranker has its own
    run = read_run(next(Path("made/evaluation").glob("*/trained.trec")))
    ids = set(Dataset.open(written.read_text().split("dataset: ")[1].split(",")[0], reading=Reading()).corpus.ids)
    assert set(run.docs) <= ids


def test_conversations_from_the_command_line(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKWRIGHT_CACHE", str(tmp_path / "cache"))
    Path("chats").mkdir()
    Path("chats/documents.json").write_text(json.dumps({"sea": ["tides", "bread"], "home": ["tea", "brakes", "rain"]}))
    turns = [("user", "hello"), ("assistant", "yes?"), ("user", "tides?")]
    row = {
        "messages": [{"role": r, "content": c} for r, c in turns],
        "document": "sea",
        "ground_truth_ctx": {"index": 0},
    }
    Path("chats/test.json").write_text(json.dumps([row, row | {"document": "home", "ground_truth_ctx": {"index": 2}}]))
    main(
        ["convert", "chats", "--turns", "2", "--roles", "assistant=Agent", "--turn", "<{role}> {content}", "--out", "d"]
    )
    assert Dataset.open("d", reading=Reading()).queries[0].text == "<Agent> yes?\n<user> tides?"
    use = "use: {name: as-published, similarity: dot, query_length: 16, doc_length: 16}"
    Path("r.yaml").write_text(
        f"model: {{Dense: {{backbone: {tiny_model}}}}}\n"
        f"evaluate: [{{dataset: d, rerank: {{first: pool}}, baselines: [start], measures: [RR@20], {use}}}]\n"
    )
    main(["run", "r.yaml", "--folder", "made"])
    run = read_run(Path("made/evaluation/d-test-as-published/start.trec")).to_dict()
    assert {query: len(docs) for query, docs in run.items()} == {"test-0": 2, "test-1": 3}
    assert "own pool" in Path("made/report.html").read_text()
    with pytest.raises(SystemExit):
        main(["convert", "chats", "--roles", "assistant", "--out", "e"])
