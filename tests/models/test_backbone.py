"""Every architecture on the list loads, agrees with transformers, drops by key, saves and loads again."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import storage
from rankwright.errors import ArtefactError, RecipeError
from rankwright.models import Dense, load
from rankwright.models.backbone import FAMILIES

TINY = Path(__file__).parents[1] / "tiny" / "model"
TEXTS = ["sourdough bread", "the moon raises the tides of the sea", "tea"]
SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 80, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
    "sep_token_id": 3,
}  # fmt: skip
DISTANCES = {"vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
             "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}  # fmt: skip
OTHER = {
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "vocab_size": 300,
                   "max_position_embeddings": 80, "pad_token_id": 0},
    "electra": {**SMALL, "embedding_size": 32}, "albert": {**SMALL, "embedding_size": 16, "hidden_dropout_prob": 0.1},
    "modernbert": {**SMALL, "mlp_dropout": 0.1, "local_attention": 8},
    "nomic_bert": {**SMALL, "hidden_dropout_prob": 0.1},
    **{name: {**SMALL, "num_key_value_heads": 1, "head_dim": 16} for name in ("qwen2", "qwen3", "llama")},
    "mistral": {**SMALL, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 3},
    "t5": DISTANCES, "mt5": {**DISTANCES, "feed_forward_proj": "gated-gelu"}, "umt5": DISTANCES,
}  # fmt: skip


def make(name: str, folder: Path) -> Path:
    """A plain Hugging Face checkpoint with random weights and the tiny model's tokenizer."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    torch.manual_seed(1)
    config = CONFIG_MAPPING[name](**OTHER.get(name, SMALL))
    MODEL_MAPPING[type(config)](config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, folder / file)
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, tmp_path):
    from transformers import AutoModel, AutoModelForTextEncoding

    reader = AutoModelForTextEncoding if "t5" in name else AutoModel  # the other T5s are encoder and decoder
    folder = make(name, tmp_path / "made")
    ranker = load(folder, dtype="float64")
    assert ranker.training_note.split(" ")[0].strip(",") == ("padded" if name in ("mpnet", "umt5") else "packed")
    texts = ranker.tokenize(TEXTS, "doc")
    model = reader.from_pretrained(folder).double().eval()
    with torch.no_grad():
        ours = ranker.represent(texts, "doc").values[:, 0].numpy()
        for row in range(len(TEXTS)):
            ids = texts.take(torch.tensor([row])).values[None]
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
            assert np.abs(ours[row] - mean / np.linalg.norm(mean)).max() < 1e-9

    ranker.train()  # dropout belongs to the text in every architecture
    keyed = texts.with_keys(torch.tensor([4, 5, 6]))
    with torch.no_grad():
        together = ranker.represent(keyed, "doc").values
        alone = ranker.represent(keyed.take(torch.tensor([2])), "doc").values
    assert (alone[0] - together[2]).abs().max() <= 1e-12
    assert bool(FAMILIES[name].hidden) == bool((together[:, 0].numpy() - ours).any())

    with storage.publish(tmp_path / "saved", "model") as draft:
        load(folder).save(draft.path)
    again = load(tmp_path / "saved", dtype="float64").eval()
    with torch.no_grad():
        assert np.abs(again.represent(texts, "doc").values[:, 0].numpy() - ours).max() < 1e-12
    reader.from_pretrained(tmp_path / "saved")


def test_old_names_of_parameters_are_understood(tmp_path):
    """Checkpoints such as bert-base-uncased: a prefix, gamma and beta, heads of another task, no pooler."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY, tmp_path / "old")
    weights = load_file(TINY / "model.safetensors")

    def before(name: str) -> str:
        return f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    old = {before(name): tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(old | {"cls.predictions.bias": torch.zeros(3)}, tmp_path / "old" / "model.safetensors")
    new, ranker = load(TINY), load(tmp_path / "old")
    with torch.no_grad():
        a, b = (r.represent(r.tokenize(TEXTS, "doc"), "doc").values for r in (new, ranker))
    assert torch.equal(a, b)
    assert not any("pooler" in name for name, _ in ranker.named_parameters())
    assert ranker.fingerprint("doc") == load(tmp_path / "old").fingerprint("doc")


def test_shards_are_joined(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY, tmp_path / "m")
    weights = load_file(TINY / "model.safetensors")
    (tmp_path / "m" / "model.safetensors").unlink()
    names = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(weights)}
    for shard in set(names.values()):
        save_file({n: t for n, t in weights.items() if names[n] == shard}, tmp_path / "m" / shard)
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert load(tmp_path / "m").fingerprint("doc") == load(TINY).fingerprint("doc")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model_type": "deberta-v2"}, "architecture 'deberta-v2' is not read here"),
        ({"model_type": None}, "architecture None"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not read"),
        ({"position_embedding_type": "relative_key"}, "relative position"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 3}, "lack or misshape encoder.layer.2"),
        ({"hidden_size": 64}, "do not fit config.json"),
        ({"hidden_size": "many"}, "does not fit"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, what, tmp_path):
    shutil.copytree(TINY, tmp_path / "m")
    config = json.loads((TINY / "config.json").read_text()) | change
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError) as caught:
        load(tmp_path / "m")
    assert what in caught.value.what


def test_dropout_and_recomputation_are_refused_where_there_is_none(tmp_path):
    folder = make("llama", tmp_path / "llama")
    with pytest.raises(RecipeError, match="no hidden dropout"):
        Dense(str(folder), dropout=0.1).load()
    assert Dense(str(folder), dropout=0.0).load()
    folder = make("mpnet", tmp_path / "mpnet")
    with pytest.raises(RecipeError, match="cannot recompute"):
        Dense(str(folder), gradient_checkpointing=True).load()


@pytest.mark.parametrize("name", ["modernbert", "llama"])
def test_half_precision_leaves_rotary_frequencies_precise(name, tmp_path, monkeypatch):
    monkeypatch.setattr("rankwright.models.dense_ranker.pick_dtype", lambda name, device: torch.bfloat16)
    backbone = load(make(name, tmp_path / "made")).encoder("doc").backbone
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    frequencies = [b.dtype for n, b in backbone.named_buffers() if "inv_freq" in n]
    assert frequencies
    assert set(frequencies) == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_lora_leaves_alberts_pooler_alone(tmp_path):
    from rankwright.models import Lora

    ranker = Dense(str(make("albert", tmp_path / "made")), lora=Lora(rank=2, dropout=0.1)).load().train()
    texts = ranker.tokenize(TEXTS, "doc").with_keys(torch.tensor([1, 2, 3]))
    ranker.represent(texts, "doc").values.sum().backward()
    assert not any("pooler" in n for n, p in ranker.named_parameters() if p.requires_grad)
