"""T5 encoders: sentence-t5 and GTR folders, dropout that spares attention, freezing, LoRA, recomputation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rankwright import storage
from rankwright.models import Dense, Lora, export, load, verify_export
from rankwright.types import Texts

TEXTS = ["bread", "the moon raises the tides of the sea twice a day", "a honey bee dances", "tea <unseen>", ""]
PIECES = ["▁the", "▁a", "▁bread", "▁tea", "▁bee", "▁sea", "▁", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint as T5's authors publish it: encoder and decoder, SentencePiece unigrams, `</s>` at the end."""
    from transformers import T5Config, T5Model, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, dropout_rate=0.2,
        relative_attention_num_buckets=8, relative_attention_max_distance=20, n_positions=512,
    )  # fmt: skip
    T5Model(config).save_pretrained(folder)
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")] + [(piece, -len(PIECES) / 8) for piece in PIECES]
    T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=40).save_pretrained(folder)
    return folder


def encode(ranker, texts=TEXTS):
    with torch.no_grad():
        return ranker.represent(ranker.tokenize(texts, "doc"), "doc").values[:, 0].numpy()


def gradients(ranker, texts):
    ranker.zero_grad(set_to_none=True)
    made = ranker.represent(texts, "doc").values
    (made * torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view_as(made)).sum().backward()
    return {name: p.grad.clone() for name, p in ranker.named_parameters() if p.grad is not None}


def keyed(ranker) -> Texts:
    return ranker.tokenize(TEXTS, "doc").with_keys(torch.arange(len(TEXTS)) + 9)


def test_a_folder_of_sentence_transformers_is_read_and_written(plain, tmp_path):
    """As sentence-t5 and GTR are built: T5's encoder, mean, a linear layer without bias, length 1."""
    st = pytest.importorskip("sentence_transformers")
    import sentence_transformers.models as parts

    body = parts.Transformer(str(plain), max_seq_length=30)
    head = parts.Dense(32, 16, bias=False, activation_function=torch.nn.Identity())
    modules = [body, parts.Pooling(32, "mean"), head, parts.Normalize()]
    model = st.SentenceTransformer(modules=modules, device="cpu")
    model.save(str(tmp_path / "theirs"))
    ranker = load(tmp_path / "theirs")
    assert ranker.training_note.startswith("packed")
    assert ranker.limits["doc"] == 30
    assert np.abs(encode(ranker) - model.encode(TEXTS)).max() <= 1e-6
    assert ranker.tokenize(["bread"], "doc").values.tolist() == [5, 1]  # with </s> at the end
    export(ranker, tmp_path / "ours")
    assert {check.verdict for check in verify_export(tmp_path / "ours", TEXTS)} == {"equal"}
    again = load(tmp_path / "ours")
    assert np.array_equal(encode(again), encode(ranker))
    assert again.fingerprint("doc") == ranker.fingerprint("doc")


def test_a_checkpoint_with_a_decoder_gives_its_encoder(plain, tmp_path):
    from safetensors.torch import load_file

    ranker = load(plain)
    assert ranker.limits["doc"] == 40  # the tokenizer's; distances have no limit
    assert Dense(str(plain), doc_length=3000).load().limits["doc"] == 3000
    with storage.publish(tmp_path / "saved", "model") as draft:
        ranker.save(draft.path)
    names = set(load_file(tmp_path / "saved" / "model.safetensors"))
    assert "shared.weight" in names
    assert not any("decoder" in name or "embed_tokens" in name for name in names)  # a tied tensor is written once
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["architectures"], config["dropout_rate"]) == (["T5EncoderModel"], 0.2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])  # eager: a transformers whose T5 has no attention interface
def test_padded_equals_packed_with_dropout_on(attention, plain, monkeypatch):
    from transformers import T5EncoderModel

    packed = load(plain, dtype="float64").train()
    note = "packed, hidden dropout 0.2, drawn by text; attention dropout 0 (the checkpoint says 0.2)"
    assert packed.training_note == note
    if attention == "eager":
        monkeypatch.setattr(T5EncoderModel, "_supports_sdpa", False)
    else:
        monkeypatch.setattr("rankwright.models.building.adopt_packing", lambda _: "padded")
    padded = load(plain, dtype="float64").train()
    assert padded.training_note.startswith("padded (eager attention)" if attention == "eager" else "padded,")
    expected, found = gradients(padded, keyed(padded)), gradients(packed, keyed(packed))
    assert found.keys() == expected.keys()
    assert sum("relative_attention_bias" in name for name in found) == 1
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 1e-10 * max(1.0, float(grad.norm())), name


def test_the_position_bias_is_built_once_for_the_longest_text(plain, monkeypatch):
    from transformers.models.t5.modeling_t5 import T5Attention

    ranker, built, original = load(plain), [], T5Attention.compute_bias
    monkeypatch.setattr(T5Attention, "compute_bias", lambda *a, **k: built.append(a[1:]) or original(*a, **k))
    longest = int(ranker.tokenize(TEXTS, "doc").lengths.max())
    encode(ranker)
    assert built == [(longest, longest)]


def test_recomputation_and_another_dropout(plain):
    usual = Dense(str(plain), dropout=0.4).load(dtype="float64").train()
    again = Dense(str(plain), dropout=0.4, gradient_checkpointing=True).load(dtype="float64").train()
    assert "hidden dropout 0.4, drawn by text; attention dropout 0 (the checkpoint says 0.2)" in usual.training_note
    expected, found = gradients(usual, keyed(usual)), gradients(again, keyed(again))
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 1e-12 * max(1.0, float(grad.norm())), name


def test_blocks_and_embeddings_can_be_frozen(plain):
    ranker = Dense(str(plain), freeze=("embeddings", "layers.0-1")).load()
    trained = {name.split("encoder.")[-1] for name, p in ranker.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(("block.2.", "final_layer_norm")) for name in trained), trained


def test_lora_is_merged(plain, tmp_path):
    pytest.importorskip("peft")
    ranker = Dense(str(plain), lora=Lora(rank=2)).load()
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1)
    export(ranker, tmp_path / "merged")
    assert not np.allclose(encode(ranker), encode(load(plain)), atol=1e-3)
    assert np.abs(encode(load(tmp_path / "merged")) - encode(ranker)).max() < 1e-6
