"""The dense ranker: tokens, vectors and scores against references written out; keys, prompts, lengths, variants."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright.errors import DataError, RecipeError, UsageError
from rankwright.models import Dense, Lora, load
from rankwright.types import Document, Reps

TINY = str(Path(__file__).parents[1] / "tiny" / "model")
TEXTS = ["sourdough bread", "the moon raises the tides", "tea", "bicycle brakes make a noise in the rain"]


@pytest.fixture(scope="module")
def ranker():
    return load(TINY)


def encode(ranker, texts, side="doc"):
    with torch.no_grad():
        return ranker.represent(ranker.tokenize(texts, side), side).values[:, 0]


def reference(texts, pooling, *, normalise=True, max_length=64):
    """Vectors from transformers, one text at a time, pooled in NumPy float64."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(TINY).double().eval(), AutoTokenizer.from_pretrained(TINY)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**ids).last_hidden_state[0].numpy()
        row = {"cls": hidden[0], "mean": hidden.mean(0), "last": hidden[-1]}[pooling]
        rows.append(row / np.linalg.norm(row) if normalise else row)
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_vectors_are_what_transformers_computes(pooling, similarity):
    ranker = Dense(TINY, pooling=pooling, similarity=similarity).load(dtype="float64")
    expected = reference(TEXTS, pooling, normalise=similarity == "cosine")
    assert np.abs(encode(ranker, TEXTS).numpy() - expected).max() < 1e-12


def test_rows_keep_their_order_and_do_not_see_each_other(ranker):
    together = encode(ranker, TEXTS)
    for row, text in enumerate(TEXTS):
        assert (encode(ranker, [text])[0] - together[row]).abs().max() < 1e-6
    assert encode(ranker, []).shape == (0, 32)


def test_texts_are_ragged_and_cut_with_special_tokens_kept(ranker):
    texts = ranker.tokenize([*TEXTS, "bread " * 200, ""], "doc")
    assert texts.lengths.tolist()[-2:] == [64, 2]
    begin, end = texts.offsets[:-1], texts.offsets[1:] - 1
    assert set(texts.values[begin].tolist()) == {2}
    assert set(texts.values[end].tolist()) == {3}
    assert ranker.limits == {"query": 64, "doc": 64}
    assert int(texts.values.max()) < ranker.vocabulary


def test_each_side_has_its_length_and_prompt():
    ranker = Dense(TINY, query_length=5, doc_length=40, query_prompt="find bread: ", doc_prompt="soil ").load()
    assert ranker.limits == {"query": 5, "doc": 40}
    long = "water " * 100
    assert len(ranker.tokenize([long], "query").values) == 5
    assert len(ranker.tokenize([long], "doc").values) == 40
    plain = load(TINY)
    assert torch.equal(ranker.tokenize(["tea"], "doc").values, plain.tokenize(["soil tea"], "doc").values)
    assert torch.equal(encode(ranker, ["tea"]), encode(plain, ["soil tea"]))


def test_lengths_beyond_the_positions_are_refused():
    with pytest.raises(RecipeError, match="positions for 96 tokens"):
        Dense(TINY, doc_length=97).load()
    assert Dense(TINY, doc_length=96).load().limits["doc"] == 96


@pytest.mark.parametrize(
    ("template", "document", "expected"),
    [
        ("{title} {text}", ("A title", "a text"), "A title a text"),
        ("{title} {text}", ("", "a text"), "a text"),
        ("{title} {text}", ("A title", ""), "A title"),
        ("{title}. {text}!", ("", "a text"), "a text!"),
        ("{text} | {title}", ("", "a text"), "a text"),
        ("{title} {text}", ("", ""), ""),
        ("{title} {text}", ("{text}", "{title}"), "{text} {title}"),
        ("{text}", ("A title", "a text"), "a text"),
    ],
)
def test_the_template_leaves_no_stray_separator(template, document, expected):
    ranker = Dense(TINY, template=template).load()
    assert ranker.render(Document("1", *document)) == expected


def test_compare_all_and_pairs():
    random = np.random.default_rng(0)
    q, d = random.normal(size=(3, 8)), random.normal(size=(5, 8))
    queries, docs = (Reps(torch.tensor(x)[:, None], torch.ones(len(x), 1, dtype=torch.bool)) for x in (q, d))
    ranker = load(TINY)
    assert np.abs(ranker.compare(queries, docs).numpy() - q @ d.T).max() < 1e-12
    pairs = torch.tensor([[0, 4], [1, 1], [3, 2]])
    chosen = ranker.compare(queries, docs, pairs=pairs).numpy()
    assert np.abs(chosen - np.take_along_axis(q @ d.T, pairs.numpy(), 1)).max() < 1e-12


def test_half_precision_is_compared_in_float32():
    reps = Reps(torch.ones(2, 1, 4, dtype=torch.bfloat16), torch.ones(2, 1, dtype=torch.bool))
    assert load(TINY).compare(reps, reps).dtype == torch.float32


def test_a_projection_and_dims_change_the_width():
    ranker = Dense(TINY, projection=16, dims=8).load()
    vectors = encode(ranker, TEXTS)
    assert vectors.shape == (4, 8)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4))
    same, other = Dense(TINY, projection=16).load(), Dense(TINY, projection=16).load(seed=1)
    assert torch.equal(encode(same, TEXTS), encode(Dense(TINY, projection=16).load(), TEXTS))
    assert not torch.allclose(encode(same, TEXTS), encode(other, TEXTS))


def test_dims_keep_the_first_dimensions(ranker):
    cut = encode(ranker, TEXTS)[:, :12]
    expected = cut / cut.norm(dim=1, keepdim=True)
    assert torch.allclose(encode(Dense(TINY, dims=12).load(), TEXTS), expected, atol=1e-6)
    with pytest.raises(RecipeError, match="dims is 33"):
        Dense(TINY, dims=33).load()


def test_separate_encoders_share_nothing():
    ranker = Dense(TINY, doc_backbone=TINY).load()
    shared = load(TINY)
    count = sum(p.numel() for p in shared.parameters())
    assert sum(p.numel() for p in ranker.parameters()) == 2 * count
    assert torch.equal(encode(ranker, TEXTS, "query"), encode(shared, TEXTS, "query"))


def test_frozen_parts_get_no_gradient():
    ranker = Dense(TINY, freeze=("embeddings", "layers.0-0", "encoder.layer.1.output")).load()
    free = {name for name, p in ranker.named_parameters() if p.requires_grad}
    assert free
    assert all(".encoder.layer.1." in name and ".layer.1.output." not in name for name in free)
    with pytest.raises(RecipeError, match="fits no parameter") as caught:
        Dense(TINY, freeze=("embedings",)).load()
    assert "embeddings" in (caught.value.fix or "")
    with pytest.raises(RecipeError, match=r"layers\.5"):
        Dense(TINY, freeze=("layers.5",)).load()


def test_the_pooler_is_not_trained(ranker):
    assert not any(p.requires_grad for name, p in ranker.named_parameters() if ".pooler." in name)


def test_lora_starts_as_the_model_and_trains_adapters_only():
    pytest.importorskip("peft")
    ranker = Dense(TINY, lora=Lora(rank=4, targets=("query", "value"))).load()
    assert torch.allclose(encode(ranker, TEXTS), encode(load(TINY), TEXTS), atol=1e-6)
    assert all(".lora_" in name for name, p in ranker.named_parameters() if p.requires_grad)
    again = Dense(TINY, lora=Lora(rank=4, targets=("query", "value"))).load()
    assert all(torch.equal(a, b) for a, b in zip(ranker.parameters(), again.parameters()))
    everywhere = Dense(TINY, lora=Lora()).load()
    assert sum(".lora_A." in name for name, _ in everywhere.named_parameters()) == 12
    with pytest.raises(RecipeError, match="name no layer"):
        Dense(TINY, lora=Lora(targets=("qery",))).load()


def test_keys_change_with_what_shapes_the_ids_and_only_then():
    base = load(TINY)
    same = Dense(TINY, pooling="cls", dropout=0.0).load()
    for side in ("query", "doc"):
        assert base.tokenizer_key(side) == same.tokenizer_key(side)
    assert base.tokenizer_key("query") != base.tokenizer_key("doc")
    changed = Dense(TINY, doc_length=63).load()
    assert changed.tokenizer_key("query") == base.tokenizer_key("query")
    for spec in (Dense(TINY, doc_length=63), Dense(TINY, doc_prompt="x"), Dense(TINY, template="{text}")):
        assert spec.load().tokenizer_key("doc") != base.tokenizer_key("doc")


def test_fingerprints_change_with_what_shapes_the_vectors():
    base = load(TINY)
    assert base.fingerprint("doc") == load(TINY).fingerprint("doc")
    assert base.fingerprint("doc") == Dense(TINY, dropout=0.3, gradient_checkpointing=True).load().fingerprint("doc")
    variants = [
        Dense(TINY, pooling="cls"), Dense(TINY, similarity="dot"), Dense(TINY, dims=8), Dense(TINY, projection=8),
        Dense(TINY, doc_length=60), Dense(TINY, doc_prompt="x "),
    ]  # fmt: skip
    found = {spec.load().fingerprint("doc") for spec in variants} | {base.fingerprint("doc")}
    assert len(found) == len(variants) + 1
    with torch.no_grad():
        next(p for p in base.parameters() if p.requires_grad).view(-1)[5] += 1e-6
    assert base.fingerprint("doc") not in found


def test_texts_that_are_not_unicode_are_named(ranker):
    with pytest.raises(DataError, match="text 1 of this batch"):
        ranker.tokenize(["fine", "bad \ud800"], "doc")


def test_an_empty_text_has_a_vector_even_without_special_tokens(tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    ranker = load(folder)
    texts = ranker.tokenize(["", "bread", ""], "doc")
    assert texts.lengths.tolist() == [1, 1, 1]
    assert torch.isfinite(encode(ranker, ["", "bread and tea", ""])).all()


def test_threads_do_not_disturb_each_other():
    ranker = Dense(TINY, dropout=0.3).load(dtype="float64").train()
    texts = ranker.tokenize(TEXTS * 4, "doc").with_keys(torch.arange(16))

    def represent(row: int) -> torch.Tensor:
        with torch.no_grad():
            return ranker.represent(texts.take(torch.tensor([row])), "doc").values[0, 0]

    with ThreadPoolExecutor(4) as pool:
        together = torch.stack(list(pool.map(represent, range(16))))
    assert (together - torch.stack([represent(row) for row in range(16)])).abs().max() <= 1e-12


def test_devices_and_types_that_do_not_fit_are_refused():
    for device, dtype in [
        ("cpu", "bfloat16"),
        ("cpu", "float16"),
        ("cpu", "int8"),
        ("gpu", "float32"),
        ("cuda:99", "float32"),
    ]:
        with pytest.raises(UsageError) as caught:
            Dense(TINY).load(device=device, dtype=dtype)
        assert caught.value.fix


def test_gradients_reach_the_weights(ranker):
    ranker = load(TINY).train()
    out = ranker.represent(ranker.tokenize(TEXTS, "query"), "query").values
    out.square().sum().backward()
    missing = [name for name, p in ranker.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
