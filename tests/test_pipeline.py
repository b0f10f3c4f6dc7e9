"""Evaluation as published, on recipes without stages: many collections, shared vectors, self-hits, time per query."""

from __future__ import annotations

import importlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from rankwright import recipe, storage
from rankwright.data import Reading, read_run
from rankwright.errors import ArtefactError, RankwrightError
from rankwright.evaluation import evaluate
from rankwright.ledger import known_steps
from rankwright.pipeline import Outcome, Pipeline
from rankwright.plan import Recipe
from rankwright.types import Run


def carried_out(tmp_path: Path, name: str, model: Path, evaluate: list[dict], **more) -> Outcome:
    evaluate = [{"measures": ["nDCG@10"]} | one for one in evaluate]
    plan = recipe.build(Recipe, {"model": {"Dense": {"backbone": str(model)}}, "evaluate": evaluate, **more})
    return Pipeline(plan, folder=tmp_path / name, cache=tmp_path / "cache").run()


def done(outcome: Outcome) -> list[str]:
    return [step.name for step in outcome.steps if not step.reused]


@pytest.fixture
def unable_to_encode_documents(monkeypatch: pytest.MonkeyPatch):
    def use() -> None:
        encode = importlib.import_module("rankwright.search.encode")  # the package exports a function of this name
        represent = encode._represent

        def queries_only(ranker, side, *others):
            assert side == "query", "documents are encoded again"
            return represent(ranker, side, *others)

        monkeypatch.setattr(encode, "_represent", queries_only)

    return use


@pytest.fixture
def other(tmp_path: Path, tiny_data: Path) -> Path:
    """A second data set, whose queries are documents of its corpus."""
    made = tmp_path / "asked"
    shutil.copytree(tiny_data, made)
    documents = [json.loads(line) for line in (made / "corpus.jsonl").read_text().splitlines()][:6]
    lines = [json.dumps({"_id": d["_id"], "text": d["text"]}) for d in documents]
    (made / "queries.jsonl").write_text("\n".join(lines) + "\n")
    pairs = [f"{a['_id']}\t{b['_id']}\t1" for a, b in pairwise(documents)]
    (made / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *pairs]) + "\n")
    return made


def test_a_new_collection_redoes_nothing_of_the_others(tmp_path, tiny_model, tiny_data, other):
    one, two = {"dataset": str(tiny_data)}, {"dataset": str(other), "baselines": ["start"]}
    assert len(done(carried_out(tmp_path, "run", tiny_model, [one]))) == 3
    assert done(carried_out(tmp_path, "run", tiny_model, [one, two])) == [
        "encode asked (before training)", "search asked-test (before training)",
    ]  # fmt: skip
    changed = carried_out(tmp_path, "run", tiny_model, [one | {"measures": ["AP"]}, two])
    assert done(changed) == []


def test_another_recipe_finds_shared_vectors_by_content(
    tmp_path, tiny_model, tiny_data, other, unable_to_encode_documents
):
    evaluate = [{"dataset": str(tiny_data), "baselines": ["start"]}]
    first = carried_out(tmp_path, "a", tiny_model, evaluate, share_vectors=True)
    moved_model, moved_data = tmp_path / "moved_model", tmp_path / "moved_data"
    shutil.copytree(tiny_model, moved_model)
    shutil.copytree(tiny_data, moved_data)
    (kept,) = (path for path in (tmp_path / "cache/vectors").iterdir() if path.name[0] != ".")
    assert storage.verify(kept, "vectors")
    assert not (tmp_path / "a/vectors").exists()
    unable_to_encode_documents()
    elsewhere = [{"dataset": str(moved_data), "baselines": ["start"]}]
    second = carried_out(tmp_path, "b", moved_model, elsewhere, share_vectors=True)
    assert second.evaluated[0].runs["before training"].to_dict() == first.evaluated[0].runs["before training"].to_dict()
    assert done(carried_out(tmp_path, "b", moved_model, elsewhere, share_vectors=True)) == []
    text = other / "corpus.jsonl"  # the same ids, one other word: other vectors
    text.write_text((tiny_data / "corpus.jsonl").read_text().replace("bread", "stone"))
    with pytest.raises(AssertionError, match="encoded again"):
        carried_out(tmp_path, "c", tiny_model, [{"dataset": str(other), "baselines": ["start"]}], share_vectors=True)


def test_self_hits_are_dropped_and_the_depth_kept(tmp_path, tiny_model, other):
    evaluate = {"dataset": str(other), "depth": 4}
    deep = carried_out(tmp_path, "run", tiny_model, [evaluate | {"depth": 5}]).evaluated[0]
    again = carried_out(tmp_path, "run", tiny_model, [evaluate | {"drop_self": True}])
    assert {name.split()[0] for name in done(again)} == {"BM25", "search"}
    found = again.evaluated[0]
    for system in ("BM25", "before training"):
        itself = 0
        for query, docs, _ in deep.runs[system]:
            itself += query in docs
            assert list(found.runs[system].to_dict()[query]) == [doc for doc in docs if doc != query][:4]
        assert itself
    for name in ("bm25", "start"):
        run = read_run(found.folder / f"{name}.trec")
        assert all(query not in docs and len(docs) <= 4 for query, docs, _ in run)


def test_time_per_query_is_measured_and_remembered(tmp_path, tiny_model, tiny_data):
    first = carried_out(tmp_path, "run", tiny_model, [{"dataset": str(tiny_data)}]).evaluated[0].latency
    assert set(first) == {"BM25", "before training"}
    assert all(0 < seconds < 100 for seconds in first.values())
    again = carried_out(tmp_path, "run", tiny_model, [{"dataset": str(tiny_data)}])
    assert (done(again), again.evaluated[0].latency) == ([], first)
    steps = known_steps(tmp_path / "run")
    for facts in ([], {"search_seconds": "soon"}):
        steps["BM25 on data-test"]["facts"] = facts
        storage.write_json(tmp_path / "run/steps.json", steps)
        with pytest.raises(ArtefactError, match="not a list of finished steps"):
            known_steps(tmp_path / "run")


def test_mined_documents_join_with_their_grade(tmp_path, tiny_model, tiny_data, monkeypatch):
    seen, opened = [], Pipeline._opened

    def watched(self, *arguments):
        seen.append(opened(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(Pipeline, "_opened", watched)
    stage = {
        "data": [{"Judged": {"dataset": str(tiny_data)}}], "group": {"Random": {"size": 4}},
        "mine": {"by": "bm25", "keep": {"ranks": [1, 10]}, "grade": 1},
        "objective": [{"loss": "KLDivergence"}], "train": {"steps": 1},
    }  # fmt: skip
    carried_out(tmp_path, "made", tiny_model, [], stages=[stage])
    mined, judged = seen[0].sources
    assert mined.qrels.endswith("negatives.tsv")
    assert (mined.grade, judged.grade) == (1.0, None)


def test_fused_with_bm25_is_one_more_system(tmp_path, tiny_model, tiny_data):
    from rankwright.search import Fuse, fuse

    spec = {"method": "sum", "norm": "z-score", "weights": [0.3, 0.7]}
    one = {"dataset": str(tiny_data), "depth": 7}
    outcome = carried_out(tmp_path, "run", tiny_model, [one | {"fuse": spec}])
    bm25, start, fused = (
        read_run(tmp_path / f"run/evaluation/data-test/{n}.trec").to_dict() for n in ("bm25", "start", "fused")
    )
    runs = [Run.from_dict(run) for run in (bm25, start)]
    expected = fuse(runs, Fuse("sum", "z-score", (0.3, 0.7)), depth=7).to_dict()
    assert {q: list(docs) for q, docs in fused.items()} == {q: list(docs) for q, docs in expected.items()}
    assert list(outcome.evaluated[0].runs) == ["BM25", "before training", "fused with BM25"]
    assert done(carried_out(tmp_path, "run", tiny_model, [one | {"fuse": spec}])) == []
    assert done(carried_out(tmp_path, "run", tiny_model, [one | {"fuse": {"method": "rrf"}}])) == ["fuse data-test"]


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"baselines": ["start"], "fuse": {}}, "fuse needs BM25's run"),
        ({"fuse": {"weights": [1, 2, 3]}}, "3 weights for two runs"),
        ({"fuse": {"method": "borda"}}, "there is no method 'borda'|borda"),
    ],
)
def test_a_fusion_that_cannot_be_is_refused_before_any_work(tmp_path, tiny_model, tiny_data, more, match):
    with pytest.raises(RankwrightError, match=match):
        carried_out(tmp_path, "run", tiny_model, [{"dataset": str(tiny_data)} | more])


def test_validation_drops_self_hits_and_looks_as_deep_as_its_measure(tmp_path, tiny_model, other, monkeypatch):
    """Every query's own document is found first; without it the measure is that of an evaluation."""
    from rankwright import assemble
    from rankwright.models import Dense
    from rankwright.plan import Validation

    dataset = assemble.open_dataset(str(other), reading=Reading(), cache=tmp_path / "cache")
    ranker = Dense(str(tiny_model)).load()
    values = {}
    for drop in (False, True):
        spec = Validation(str(other), split="test", measure="RR", drop_self=drop)
        how = {"device": "cpu", "precision": "float32"}
        values[drop] = assemble.make_validator(ranker, dataset, spec, None, **how).measure()["RR"]
    evaluation = {"dataset": str(other), "baselines": ["start"], "measures": ["RR"], "drop_self": True}
    outcome = carried_out(tmp_path, "run", tiny_model, [evaluation])
    run = outcome.evaluated[0].runs["before training"]
    assert values[False] < values[True]
    assert values[True] == outcome.evaluated[0].evidence.measure(run, ["RR"]).mean()["RR"]
    searched = []
    exact = importlib.import_module("rankwright.search.exact").Exact
    search = exact.search
    monkeypatch.setattr(exact, "search", lambda self, *a, k: searched.append(k) or search(self, *a, k=k))
    spec = Validation(str(other), split="test", measure="R@500")
    assemble.make_validator(ranker, dataset, spec, None, device="cpu", precision="float32").measure()
    assert searched == [500]


# --- pools of a document's own chunks ---------------------------------------------------------------------------------


def conversations(tmp_path: Path) -> Path:
    """Two documents of chunks, and conversations about them, as `convert` makes a data set of them."""
    from rankwright.data.dialects import convert

    folder = tmp_path / "chats"
    folder.mkdir()
    chunks = {"sea": ["the moon raises the tides", "bread and tea", "rain"], "home": ["bicycle brakes", "the tides"]}
    said = [("sea", 0, "what raises the tides?"), ("home", 1, "what about tides?"), ("sea", 2, "does it rain?")]
    rows = [
        {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"},
                      {"role": "user", "content": text}], "document": doc, "ground_truth_ctx": {"index": index}}
        for doc, index, text in said
    ]  # fmt: skip
    (folder / "documents.json").write_text(json.dumps(chunks))
    (folder / "test.json").write_text(json.dumps(rows))
    convert(folder, tmp_path / "pooled")
    return tmp_path / "pooled"


def test_a_pool_ranks_the_chunks_of_a_querys_own_document_alone(tmp_path: Path, tiny_model: Path):
    """Scores are those of transformers' unnormalised first token in NumPy; measures those of pytrec_eval."""
    import numpy as np
    import pytrec_eval
    import torch
    from transformers import AutoModel, AutoTokenizer

    data, cut = conversations(tmp_path), 12
    measures = ["Success@1", "Success@5", "RR@20", "nDCG@20"]
    common = {"dataset": str(data), "measures": measures, "rerank": {"first": "pool"}, "baselines": ["start"]}
    published = {"name": "as-published", "similarity": "dot", "query_length": cut, "doc_length": cut}
    corpus = {"dataset": str(data), "baselines": ["start"]}
    plan = recipe.build(
        Recipe,
        {
            "model": {"Dense": {"backbone": str(tiny_model), "pooling": "cls", "similarity": "cosine"}},
            "evaluate": [common, common | {"use": published}, corpus],
        },
    )
    outcome = Pipeline(plan, folder=tmp_path / "run", cache=tmp_path / "cache").run()
    trained, as_published, whole = (found.runs["before training"].to_dict() for found in outcome.evaluated)
    assert [found.labels[1] for found in outcome.evaluated] == ["test", "test-as-published", "test-2"]
    pool = read_run(data / "ranking.trec").to_dict()
    for run in (trained, as_published):
        assert {q: set(docs) for q, docs in run.items()} == {q: set(docs) for q, docs in pool.items()}
    assert all(len(docs) == 5 for docs in whole.values())

    model, tokenizer = AutoModel.from_pretrained(tiny_model).double().eval(), AutoTokenizer.from_pretrained(tiny_model)

    def first(text: str) -> np.ndarray:
        with torch.no_grad():
            ids = tokenizer(text, truncation=True, max_length=cut, return_tensors="pt")
            return model(**ids).last_hidden_state[0, 0].numpy()

    dataset = outcome.evaluated[1].dataset
    for query, docs in as_published.items():
        vector = first(dataset.queries[dataset.queries.row(query)].text)
        for doc, score in docs.items():
            assert abs(score - vector @ first(dataset.corpus[dataset.corpus.row(doc)].text)) < 1e-3
    assert as_published != trained
    scores = evaluate(outcome.evaluated[1].runs["before training"], outcome.evaluated[1].evidence.qrels, measures)
    graded = {
        q: {d: int(g) for d, g in docs.items()} for q, docs in outcome.evaluated[1].evidence.qrels.to_dict().items()
    }
    oracle = pytrec_eval.RelevanceEvaluator(graded, {"success.1", "success.5", "recip_rank", "ndcg_cut.20"})
    theirs = oracle.evaluate(as_published)
    names = dict(zip(measures, ("success_1", "success_5", "recip_rank", "ndcg_cut_20")))
    for name, other_name in names.items():
        assert abs(scores.mean()[name] - np.mean([found[other_name] for found in theirs.values()])) < 1e-12


def test_what_a_use_changes_is_said(tmp_path: Path, tiny_model: Path):
    from rankwright.models import Chunks, Dense, Late, load
    from rankwright.plan import Use
    from rankwright.usage import differences, used

    stage = {
        "data": [{"Judged": {"dataset": "x"}}], "group": {"Random": {"size": 2}}, "doc_length": 40,
        "objective": [{"loss": {"InfoNCE": {}}, "against": "batch"}],
    }  # fmt: skip
    evaluation = {"dataset": "x", "use": {"name": "short", "similarity": "dot", "query_length": 8}}
    plan = recipe.build(
        Recipe,
        {"model": {"Dense": {"backbone": str(tiny_model)}}, "stages": [stage], "evaluate": [evaluation]},
    )  # fmt: skip
    (said,) = differences(plan, load(tiny_model))
    for part in (
        "query_length 8, trained with 64",
        "doc_length 64, trained with 40",
        "similarity dot, trained with cos",
    ):
        assert part in said
    chunked = Dense(str(tiny_model), chunks=Chunks(32, 8))
    assert any("similarity dot, trained with cosine" in said for said in differences(plan, chunked.load()))
    assert used(Dense("m"), Use("a", query_cut="left")) == Dense("m", query_cut="left")
    assert used(Late("m"), None) == Late("m")
    from rankwright.models import Cross

    with pytest.raises(RankwrightError, match="Cross has no similarity"):
        used(Cross("m"), Use("a", similarity="dot"))


@pytest.mark.parametrize(
    ("stage", "evaluation", "message"),
    [
        ({"doc_length": 97}, {}, "stages.0: doc_length is 97, this model has positions for 96"),
        ({}, {"query_length": 97}, "evaluate.0.use: query_length is 97"),
    ],
)
def test_what_is_longer_than_the_positions_is_refused_before_the_work(
    stage, evaluation, message, tiny_model, tiny_data, tmp_path
):
    stage = stage | {
        "data": [{"Judged": {"dataset": str(tiny_data)}}], "group": {"Random": {"size": 2}},
        "objective": [{"loss": {"InfoNCE": {}}, "against": "batch"}],
    }  # fmt: skip
    asked = {"dataset": str(tiny_data), "baselines": [], "use": {"name": "long", **evaluation}}
    with pytest.raises(RankwrightError, match=message):
        carried_out(tmp_path, "run", tiny_model, [asked], stages=[stage])
    assert not (tmp_path / "run" / "stage-1").exists()


def test_a_data_set_without_pools_says_so(tmp_path: Path, tiny_model: Path, tiny_data: Path):
    with pytest.raises(RankwrightError, match="no pool"):
        carried_out(tmp_path, "a", tiny_model, [{"dataset": str(tiny_data), "rerank": {"first": "pool"}}])


def test_a_pool_of_unknown_documents_names_its_file_before_the_work(tmp_path: Path, tiny_model: Path):
    data = tmp_path / "pool"
    shutil.copytree(conversations(tmp_path), data, ignore=shutil.ignore_patterns(storage.MANIFEST))
    rows = (data / "ranking.trec").read_text()
    (data / "ranking.trec").write_text(rows + "test-0 Q0 nowhere#3 9 0.01 x\n")
    asked = {"dataset": str(data), "rerank": {"first": "pool"}, "baselines": []}
    with pytest.raises(RankwrightError, match=r"ranking.trec: ranks document 'nowhere#3'"):
        carried_out(tmp_path, "run", tiny_model, [asked])
    assert not (tmp_path / "run" / "evaluation").exists()
