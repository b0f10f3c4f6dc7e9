"""Configurations of Trove and matchmaker as recipes: what maps, what is filled in, what is named as not mapped."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rankwright import data, recipe
from rankwright.cli import main
from rankwright.errors import RecipeError
from rankwright.plan import Recipe
from rankwright.translation import Translation, translate

HUB = "hf://datasets/mteb/msmarco@c5a29a1"
REAL = {
    "corpus_path": f"{HUB}/corpus.jsonl",
    "query_path": f"{HUB}/queries.jsonl",
    "qrel_path": f"{HUB}/qrels/train.tsv",
}
MINED = REAL | {"qrel_path": "hf://datasets/BatsResearch/sycl/real_data/train_qrels.jsonl", "group_random_k": 2}
SYNTHETIC = {
    "corpus_path": "llama/corpus.jsonl",
    "query_path": "llama/queries.jsonl",
    "qrel_path": "llama/qrels/train.tsv",
}
TAS = """
train_pairwise_distillation: True
loss: "margin-mse"
in_batch_negatives: True
in_batch_neg_lambda: 0.75
in_batch_main_pair_lambda: 1
in_batch_neg_loss: "margin-mse" #KLDivTeacherList
dynamic_teacher: True
dynamic_teacher_in_batch_scoring: True
dynamic_sampler: True
dynamic_sampler_type: tas_balanced
dynamic_clusters_per_batch: 1
tas_balanced_pair_strategy: "bins"
batch_size_train: 32
run_dense_retrieval_eval: True
"""


def translated(value: Any, folder: Path) -> Translation:
    text = value if isinstance(value, str) else json.dumps(value)
    path = folder / ("c.yaml" if isinstance(value, str) else "c.json")
    path.write_text(text)
    made = translate([path])
    (folder / "made.yaml").write_text(made.text)
    assert recipe.read_plain(folder / "made.yaml") == made.recipe  # the notes are comments
    assert all(f"- {key}:" in made.text for key in made.unmapped)
    return made


def sources(made: Translation) -> list[Any]:
    return [source["Judged"] for source in made.recipe["stages"][0]["data"]]


PUBLISHED = {
    "real_binary": ({"pos_mqrel": [REAL | {"min_score": 1}], "neg_mqrel": [MINED]}, {"OneRelevant": {"negatives": 2}}),
    "synth_binary": (
        {"pos_mqrel": [SYNTHETIC | {"min_score": 2}], "neg_mqrel": [SYNTHETIC | {"max_score": 2}]},
        {"OneRelevant": {"negatives": 3}},
    ),
    "synth_multilevel": ({"mqrel": [SYNTHETIC]}, {"Random": {"size": 4}}),
    "synth_plus_real": (
        {"mqrel": [REAL | {"score_transform": 3, "min_score": 1}, MINED | {"score_transform": 1}, SYNTHETIC]},
        {"Random": {"size": 7}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configurations_of_sycl(name: str, tmp_path: Path) -> None:
    config, group = PUBLISHED[name]
    made = translated(config, tmp_path)
    stage = made.recipe["stages"][0]
    assert made.program == "Trove"
    assert stage["group"] == group
    assert stage["batches"] == {"Shuffled": {"size": 64, "repeats": True}}
    loss = "InfoNCE" if "pos_mqrel" in config else "Wasserstein2"
    assert stage["objective"] == [{"loss": {loss: {"temperature": 1.0}}, "against": "batch"}]
    assert (stage["train"]["learning_rate"], stage["train"]["accumulate"], stage["train"]["epochs"]) == (1e-5, 4, 1)
    assert made.recipe["model"]["Dense"]["backbone"] == "facebook/contriever"
    assert len(made.filled) == 5  # the flags that stood on the command line


def test_what_a_collection_becomes(tmp_path: Path) -> None:
    binary, negatives = translated(PUBLISHED["synth_binary"][0], tmp_path), {"dataset": "llama", "split": "train"}
    assert sources(binary) == [negatives | {"max_grade": 1, "grade": 0}, negatives | {"min_grade": 2, "grade": 1}]
    mixed = translated(PUBLISHED["synth_plus_real"][0], tmp_path)
    assert sources(mixed) == [
        {"dataset": "mteb/msmarco@c5a29a1", "split": "train", "min_grade": 1, "grade": 3},
        {"dataset": "mteb/msmarco@c5a29a1", "qrels": "data/sycl/real_data/train_qrels.jsonl", "keep": {"random": 2}, "grade": 1},
        {"dataset": "llama", "split": "train", "namespace": "2:"},
    ]  # fmt: skip
    assert list(mixed.unmapped) == ["mqrel.1.qrel_path"]


def test_flags_of_trove_beside_its_collections(tmp_path: Path) -> None:
    flags = {
        "model_name_or_path": "org/name", "model_revision": "v1", "pooling": "last_token", "normalize": "yes", "loss": "kl",
        "temperature": 0.5, "group_size": 9, "passage_selection_strategy": "most_relevant", "query_max_len": 40,
        "per_device_train_batch_size": 12, "learning_rate": 3e-5, "max_steps": 70, "warmup_steps": 5, "use_peft": True,
        "lora_r": 8, "bf16": True, "seed": 7, "gradient_accumulation_steps": 2, "load_in_4bit": True, "use_rslora": False,
        "lr_scheduler_type": "polynomial",
    }  # fmt: skip
    collection = SYNTHETIC | {
        "filter_fn": "f", "query_cache": "c.arrow", "score_transform": "floor", "group_top_k": 3, "query_subset_path": "q.txt",
        "max_score": 2.5,
    }  # fmt: skip
    made = translated({"mqrel": collection} | flags, tmp_path)
    assert sources(made) == [
        {"dataset": "llama", "split": "train", "max_grade": 2, "keep": {"top": 3}, "queries": "q.txt"}
    ]
    model, stage = made.recipe["model"]["Dense"], made.recipe["stages"][0]
    assert model == {
        "backbone": "org/name@v1", "pooling": "last", "similarity": "cosine", "query_length": 40, "doc_length": 256,
        "lora": {"rank": 8, "alpha": 32, "dropout": 0.05},
    }  # fmt: skip
    assert stage["group"] == {"Top": {"size": 9}}
    assert stage["batches"]["Shuffled"]["size"] == 12
    assert stage["objective"][0]["loss"] == {"KLDivergence": {"temperature": 0.5}}
    train = stage["train"]
    assert (train["steps"], train["warmup"], train["precision"], train["accumulate"]) == (70, 5, "bf16", 2)
    assert made.recipe["seed"] == 7
    assert set(made.unmapped) == {
        "mqrel.0.filter_fn", "mqrel.0.query_cache", "load_in_4bit", "use_rslora", "lr_scheduler_type",
    }  # fmt: skip


def test_tas_balanced(tmp_path: Path) -> None:
    made = translated(TAS, tmp_path)
    stage = made.recipe["stages"][0]
    assert made.program == "matchmaker"
    assert made.recipe["model"] == {
        "Dense": {
            "backbone": "distilbert-base-uncased", "pooling": "cls", "similarity": "dot", "query_length": 30,
            "doc_length": 200,
        }
    }  # fmt: skip
    assert stage["group"] == {"MarginBins": {"bins": 10}}
    assert stage["batches"] == {"ByTopic": {"topics": "topics.tsv", "size": 32, "variant": "code"}}
    assert [(term["against"], term.get("weight")) for term in stage["objective"]] == [("own", None), ("others", 0.75)]
    assert stage["objective"][1]["teacher"] == {"Late": {"backbone": "runs/colbert/model"}}
    assert stage["train"]["learning_rate"] == 7e-6
    assert set(made.unmapped) == {"run_dense_retrieval_eval", "validation"}


def test_files_of_matchmaker_are_merged_and_paths_become_data_sets(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TAS)
    (tmp_path / "b.yaml").write_text(
        "dynamic_query_file: /d/queries.train.tsv\ndynamic_collection_file: /d/collection.tsv\nbatch_size_train: 96\n"
        "dynamic_pairs_with_teacher_scores: /d/t2.tsv\ndynamic_query_cluster_file: /d/clusters.tsv\noptimizer: sgd\n"
        "tas_balanced_pair_strategy: random\ndynamic_teacher_path: /d/colbert\ndynamic_clusters_per_batch: 2\nnovel_key: 3\n"
        "validation_cont: {tsv: x, qrels: y}\nuse_fp16: False\n"
    )
    made = translate([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    stage = made.recipe["stages"][0]
    assert stage["data"] == [{"Scored": {"dataset": "/d", "scores": "/d/t2.tsv"}}]
    assert stage["group"] == {"MarginBins": {"bins": 1}}
    assert stage["batches"]["ByTopic"] | {"size": 96, "per_batch": 2} == stage["batches"]["ByTopic"]
    assert stage["train"]["precision"] == "float32"
    assert set(made.unmapped) == {
        "dynamic_query_file", "dynamic_query_cluster_file", "dynamic_teacher_path", "optimizer", "novel_key", "validation",
        "validation_cont", "run_dense_retrieval_eval",
    }  # fmt: skip
    assert "3" in made.unmapped["novel_key"]


def test_static_pairs_and_colbert(tmp_path: Path) -> None:
    made = translated(
        "model: ColBERT\ntrain_tsv: /d/triples.tsv\nloss: ranknet\nquery_augment_mask_number: 8\nepochs: 3\n", tmp_path
    )
    assert made.recipe["model"]["Late"]["similarity"] == "dot"  # its token vectors are not brought to length 1
    stage = made.recipe["stages"][0]
    assert stage["data"] == [{"Judged": {"dataset": "data/triples"}}]
    assert stage["objective"] == [{"loss": "RankNet", "against": "own"}]
    assert stage["train"]["epochs"] == 3
    assert "rankwright convert /d/triples.tsv" in made.unmapped["train_tsv"]
    scored = translated(
        "train_tsv: t.tsv\ntrain_pairwise_distillation: True\nmodel: bert_cat\nloss: nonsense\n", tmp_path
    )
    assert scored.recipe["stages"][0]["data"] == [{"Scored": {"dataset": "data/t", "scores": "data/t/scores.tsv"}}]
    assert {"model", "loss"} <= set(scored.unmapped)


@pytest.mark.parametrize("config", [*(c for c, _ in PUBLISHED.values()), TAS, "model: ColBERT\ntrain_tsv: t.tsv\n"])
@pytest.mark.skipif("Scored" not in data.__all__, reason="the parts that such recipes name are not there")
def test_what_is_written_is_a_recipe(config: Any, tmp_path: Path) -> None:
    made = translated(config, tmp_path)
    assert isinstance(recipe.load(tmp_path / "made.yaml", Recipe), Recipe)
    assert made.recipe["stages"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\n", "no key that tells"),
        ("- 1\n", "is no mapping"),
        ("{", "not valid YAML"),
        ('{"mqrel": ["x"]}', "mqrel.0 is no mapping"),
        ('{"mqrel": {"query_path": "q"}}', "no corpus_path"),
        ('{"mqrel": {"corpus_path": "c", "qrel_path": 3}}', "qrel_path is 3"),
        ('{"mqrel": {"corpus_path": "c", "qrel_path": "q", "min_score": "x"}}', "min_score is 'x'"),
        ("train_tsv: x\nbatch_size_train: many\n", "batch_size_train is 'many'"),
        ("train_tsv: [x]\n", "train_tsv is ['x']"),
    ],
)
def test_what_is_neither_is_refused(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        translate([tmp_path / "c.yaml"])
    assert words in str(caught.value)
    assert caught.value.where
    with pytest.raises(SystemExit) as ended:
        main(["convert", "recipe", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "r.yaml")])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(TAS)
    out = str(tmp_path / "r.yaml")
    main(["convert", "recipe", str(tmp_path / "c.yaml"), "--out", out])
    said = capsys.readouterr().out
    assert "not translated: validation:" in said
    assert f"next: rankwright run {out} --dry-run" in said
    main(["convert", "recipe", str(tmp_path / "c.yaml"), "--out", out, "--json"])
    assert json.loads(capsys.readouterr().out)["from"] == "matchmaker"
    with pytest.raises(SystemExit):
        main(["convert", "recipe", str(tmp_path / "c.yaml"), "--out", str(tmp_path)])
