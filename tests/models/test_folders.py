"""Model folders of every dialect are read alike; hostile ones end in a typed error and run nothing."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch

from rankwright.errors import ArtefactError, RankwrightError
from rankwright.models import load
from rankwright.models.folders import read_folder

TINY = Path(__file__).parents[1] / "tiny" / "model"
TEXTS = ["sourdough bread", "the moon raises the tides", "tea"]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({k: v for k, v in (old | changes).items() if v != "drop"}))


def retype(folder: Path, names: list[tuple[str, str]]) -> None:
    rows = [{"idx": i, "name": str(i), "path": path, "type": name} for i, (name, path) in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(rows))


def encode(ranker, side="doc", texts=TEXTS):
    with torch.no_grad():
        return ranker.represent(ranker.tokenize(texts, side), side).values[:, 0]


# --- dialects ---


def test_the_dialect_before_5_4():
    found = read_folder(TINY)
    assert (found.pooling, found.similarity, found.max_length, found.lower_case) == ("mean", "cosine", 64, False)


def test_the_dialect_since_5_4(folder):
    new = "sentence_transformers.base.modules"
    retype(folder, [
        (f"{new}.transformer.Transformer", ""),
        ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", "1_Pooling"),
        (f"{new}.normalize.Normalize", "2_Normalize"),
    ])  # fmt: skip
    (folder / "1_Pooling/config.json").write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "cls"}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "feature-extraction"}))
    found = read_folder(folder)
    assert (found.pooling, found.max_length) == ("cls", None)
    assert load(folder).limits["doc"] == 64  # from the tokenizer


def test_a_plain_checkpoint_pools_by_mean(folder):
    (folder / "modules.json").unlink()
    assert torch.equal(encode(load(folder)), encode(load(TINY)))


@pytest.mark.parametrize(
    ("general", "similarity", "query", "doc"),
    [
        ({}, None, "", ""),
        ({"similarity_fn_name": "dot"}, "dot", "", ""),
        ({"similarity_fn_name": "dot_score", "prompts": {"query": "q: ", "document": "d: "}}, "dot", "q: ", "d: "),
        ({"prompts": {"query": "q: ", "passage": "p: ", "document": ""}}, None, "q: ", "p: "),
        ({"prompts": {"all": "a: "}, "default_prompt_name": "all"}, None, "a: ", "a: "),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, None, "q: ", ""),
        ({"prompts": {"query": "", "all": "a: "}, "default_prompt_name": "all"}, None, "", "a: "),
        ({"prompts": {"query": None}}, None, "", ""),
    ],
)
def test_similarity_and_prompts(general, similarity, query, doc, folder):
    retype(
        folder,
        [("sentence_transformers.models.Transformer", ""), ("sentence_transformers.models.Pooling", "1_Pooling")],
    )
    (folder / "config_sentence_transformers.json").write_text(json.dumps(general))
    found = read_folder(folder)
    assert found.similarity == similarity
    assert found.prompts == {"query": query, "doc": doc}


def test_a_prompt_can_be_left_out_of_the_pooling(folder):
    edit(folder / "config_sentence_transformers.json", prompts={"query": "find bread : ", "document": ""})
    with_prompt = encode(load(folder), "query")
    edit(folder / "1_Pooling/config.json", include_prompt=False)
    ranker = load(folder)
    assert ranker.sides["query"].skip == 4  # [CLS] find bread :
    assert ranker.sides["doc"].skip == 0
    assert not torch.allclose(encode(ranker, "query"), with_prompt, atol=1e-3)


def test_a_transformer_in_a_subfolder_and_the_older_length_file(folder):
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inner / name)
    (folder / "sentence_bert_config.json").unlink()
    edit(inner / "sentence_roberta_config.json", max_seq_length=32, do_lower_case=True)
    kinds = ["Transformer", "Pooling", "Normalize"]
    paths = ["0_Transformer", "1_Pooling", "2_Normalize"]
    retype(folder, [(f"sentence_transformers.models.{kind}", path) for kind, path in zip(kinds, paths)])
    ranker = load(folder)
    assert ranker.limits["doc"] == 32
    assert torch.equal(encode(ranker), encode(load(TINY)))


# --- what is not read ---


@pytest.mark.parametrize(
    ("file", "changes", "what"),
    [
        ("config.json", {"auto_map": {"AutoModel": "code.Model"}}, "custom code ('auto_map')"),
        ("config.json", {"trust_remote_code": True}, "custom code"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", None]}}, "custom code"),
        ("1_Pooling/config.json", {"auto_map": {"x": "code.X"}}, "custom code"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling ['max'] is not read"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling ['mean', 'max'] is not read"),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "max_seq_length is 'many'"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "made for 'text-generation'"),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}, "several modules"),
        ("config_sentence_transformers.json", {"prompts": ["q"]}, "prompts must map"),
        ("config_sentence_transformers.json", {"truncate_dim": -3}, "truncate_dim is -3"),
        ("rankwright.json", {"format": 99, "kind": "Dense"}, "holds 'Dense', format 99"),
        ("rankwright.json", {"format": 1, "kind": "Oracle"}, "holds 'Oracle', format 1"),
    ],
)
def test_a_folder_that_asks_for_more_is_refused(file, changes, what, folder):
    edit(folder / file, **changes)
    with pytest.raises(ArtefactError) as caught:
        load(folder)
    assert what in caught.value.what
    assert caught.value.where


@pytest.mark.parametrize(
    ("name", "path", "what"),
    [
        ("os.system", "", "module type 'os.system'"),
        ("code.Model", "", "module type 'code.Model'"),
        ("sentence_transformers.models.Router", "", "module type"),
        (["x"], "", "module type"),
        ("sentence_transformers.models.Transformer", "../model", "not a plain subfolder"),
        ("sentence_transformers.models.Transformer", "/etc", "not a plain subfolder"),
        ("sentence_transformers.models.Transformer", "a/b", "not a plain subfolder"),
        ("sentence_transformers.models.Transformer", ".", "not a plain subfolder"),
        ("sentence_transformers.models.Transformer", "a\\b", "not a plain subfolder"),
        ("sentence_transformers.models.Transformer", 5, "not a plain subfolder"),
        ("sentence_transformers.models.Transformer", "link", "not a plain subfolder"),
    ],
)
def test_modules_are_looked_up_never_imported(name, path, what, folder):
    (folder / "link").symlink_to("/")
    retype(folder, [(name, path), ("sentence_transformers.models.Pooling", "1_Pooling")])
    with pytest.raises(ArtefactError) as caught:
        load(folder)
    assert what in caught.value.what


def test_the_order_of_modules_is_checked(folder):
    st = "sentence_transformers.models."
    for kinds in (["Pooling", "Transformer"], ["Transformer"], ["Transformer", "Pooling", "Normalize", "Dense"]):
        retype(folder, [(st + kind, "") for kind in kinds])
        with pytest.raises(ArtefactError, match="not a dense retriever"):
            load(folder)


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.write_text, (self.canary, "ran")


def test_hostile_folders_run_nothing(folder, tmp_path):
    canary = tmp_path / "canary"
    pickled = pickle.dumps(Payload(canary))
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    (folder / "code.py").write_text(f"open({str(canary)!r}, 'w')")

    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    overlap = json.dumps({
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    }).encode()  # fmt: skip
    for content in (
        pickled, b"", good[:1000], struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", len(header)) + header,
        struct.pack("<Q", len(overlap)) + overlap + bytes(12),
    ):  # fmt: skip
        weights.write_bytes(content)
        with pytest.raises(ArtefactError):
            load(folder)

    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickled)
    with pytest.raises(ArtefactError, match="only pickled weights") as caught:
        load(folder)
    assert "safetensors" in (caught.value.fix or "")

    (tmp_path / "secret.safetensors").write_bytes(good)
    for name in (
        "../secret.safetensors",
        "/etc/passwd",
        "pytorch_model.bin",
        ".hidden.safetensors",
        7,
        "a/b.safetensors",
    ):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        with pytest.raises(ArtefactError, match="not a shard"):
            load(folder)
    assert not canary.exists()


@pytest.mark.parametrize(
    "file", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", "rankwright.json"]
)
@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"\xff\xfe", b"[]", b"null", b'{"a": 1e999}', b'{"type": "x"}']
)
def test_damaged_json_is_a_typed_error(file, content, folder):
    (folder / file).write_bytes(content)
    if file == "tokenizer.json":
        (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(RankwrightError):
        load(folder)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ArtefactError, match=r"no config\.json"):
        load(tmp_path)
