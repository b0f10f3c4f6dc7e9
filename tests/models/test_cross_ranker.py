"""The cross-encoder: every family's scores are transformers' and sentence-transformers' own, packed and padded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from rankwright.errors import ArtefactError, RecipeError, UsageError
from rankwright.models import Cross, CrossRanker, Dense, Lora, export, load, verify_export
from rankwright.models.dropout import KeyedDropout
from rankwright.types import Document

TINY = Path(__file__).parents[1] / "tiny" / "model"
QUERIES = ["what raises the tides of the sea", "tea", "bread " * 30, ""]
DOCS = ["the moon raises the tides", "water " * 50, "green tea, " * 20, "bicycle"]
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 100, "pad_token_id": 0, "type_vocab_size": 2, "num_labels": 1, "embedding_size": 16,
    "initializer_range": 0.3,
}  # fmt: skip
FAMILIES = {
    "bert": SHAPE, "electra": SHAPE, "nomic_bert": SHAPE, "albert": SHAPE,
    "roberta": SHAPE | {"type_vocab_size": 1, "max_position_embeddings": 105},
    "xlm-roberta": SHAPE | {"type_vocab_size": 1}, "camembert": SHAPE | {"type_vocab_size": 1},
    "mpnet": SHAPE,
    "distilbert": {"vocab_size": 300, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "num_labels": 1,
                   "max_position_embeddings": 100, "initializer_range": 0.3, "pad_token_id": 0},
    "modernbert": SHAPE | {"local_attention": 16, "classifier_pooling": "mean"},
    "qwen3": SHAPE | {"num_key_value_heads": 2, "head_dim": 8},
}  # fmt: skip
TYPED = ("bert", "electra", "nomic_bert", "albert")
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


def made(folder: Path | str = TINY, **fields) -> CrossRanker:
    ranker = Cross(str(folder), **({"length": 40} | fields)).load(dtype="float64", seed=3)
    assert isinstance(ranker, CrossRanker)
    return ranker


def scores(ranker, queries=QUERIES, docs=DOCS) -> torch.Tensor:
    pairs = ranker.pairing(ranker.tokenize(queries, "query"), ranker.tokenize(docs, "doc"))
    with torch.no_grad():
        return ranker.represent(pairs, "doc").values.flatten()


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def checkpoint(tmp_path):
    def write(name: str, **changes) -> Path:
        from transformers import CONFIG_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

        torch.manual_seed(1)
        config = CONFIG_MAPPING[name](**(FAMILIES[name] | changes))
        folder = tmp_path / name
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)](config).save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY / file, folder / file)
        if name in TYPED:
            edit(folder / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
        return folder

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_transformers_own(family, checkpoint):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = checkpoint(family)
    ranker = made(folder)
    assert ranker.packed == (family != "mpnet"), ranker.training_note
    assert ranker.classifier.split
    assert ranker.join.segments == (family in TYPED)
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for query, doc in zip(QUERIES, DOCS):
        ids = tokenizer(query, doc, truncation="longest_first", max_length=40, return_tensors="pt")
        given = {name: ids[name] for name in ("input_ids", "attention_mask")}
        if ranker.join.segments:
            given["token_type_ids"] = ids["token_type_ids"]
        with torch.no_grad():
            expected.append(model(**given).logits[0, 0])
    assert (scores(ranker) - torch.stack(expected)).abs().max() <= 1e-9
    assert scores(ranker).std() > 1e-3


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("segments", [None, False])
def test_sentence_transformers_reads_our_folder(family, segments, checkpoint, tmp_path):
    library = pytest.importorskip("sentence_transformers", minversion="6.0")
    ranker = Cross(str(checkpoint(family)), length=30, segments=segments).load()
    out = export(ranker, tmp_path / "out")
    model = library.CrossEncoder(str(out), device="cpu", local_files_only=True)
    theirs = torch.tensor(model.predict(list(zip(QUERIES, DOCS)), show_progress_bar=False))
    assert (scores(ranker) - theirs).abs().max() <= 1e-5
    assert {(check.side, check.verdict) for check in verify_export(out, DOCS[:3])} == {("pair", "equal")}
    model.save(str(tmp_path / "native"))
    native = load(tmp_path / "native")
    assert (scores(native) - theirs).abs().max() <= 1e-5


def test_what_is_saved_is_what_is_loaded(tmp_path):
    ranker = made(query_length=5, truncate="doc_only", template="{title}: {text}")
    ranker.save(tmp_path)
    again = load(tmp_path, dtype="float64")
    assert isinstance(again, CrossRanker)
    assert again.join == ranker.join
    assert again.template == ranker.template
    assert torch.equal(scores(again), scores(ranker))
    assert again.fingerprint("doc") == ranker.fingerprint("doc")
    assert made(tmp_path, length=20).fingerprint("doc") != ranker.fingerprint("doc")
    with pytest.raises(ArtefactError, match="holds 'Cross'"):
        Dense(str(tmp_path)).load()


def test_a_new_head_is_a_function_of_the_seed():
    one, other = (Cross(str(TINY)).load(seed=seed) for seed in (1, 2))
    assert torch.equal(scores(one), scores(Cross(str(TINY)).load(seed=1)))
    assert not torch.equal(scores(one), scores(other))
    assert "a new head" in one.training_note
    assert one.limits == {"query": 93, "doc": 93}  # 96 positions, three special tokens


def test_a_head_that_transformers_applies_otherwise_runs_the_whole_model_padded(checkpoint, monkeypatch):
    from rankwright.models import classifier

    folder = checkpoint("bert")
    expected = scores(made(folder))
    monkeypatch.setitem(classifier._HEADS, "bert", ("last", classifier._pooler))
    ranker = made(folder)
    assert not ranker.packed
    assert "the whole model" in ranker.training_note
    assert (scores(ranker) - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert"])
def test_dropout_is_the_pairs_own_and_reaches_the_head(family, checkpoint):
    ranker = made(checkpoint(family), dropout=0.4).train()
    numbers = [m.p for m in ranker.modules() if isinstance(m, KeyedDropout)]
    assert set(numbers) == {0.4}
    pairs = ranker.join(ranker.tokenize(QUERIES, "query"), ranker.tokenize(DOCS, "doc"))
    pairs = pairs.with_keys(torch.tensor([5, 6, 7, 8]))
    with torch.no_grad():
        together = ranker.represent(pairs, "doc").values
        for row in range(4):
            alone = ranker.represent(pairs.take(torch.tensor([row])), "doc").values
            assert (alone - together[row]).abs().max() <= 1e-12
        other = ranker.represent(pairs.with_keys(torch.tensor([5, 6, 7, 9])), "doc").values
    assert (other[:3] - together[:3]).abs().max() <= 1e-12
    assert (other[3] - together[3]).abs().max() > 1e-6


def test_scores_stand_for_every_query_and_pairs_pick():
    ranker = made()
    queries, docs = ranker.represent(ranker.tokenize(QUERIES, "query"), "query"), None
    pairs = ranker.join(ranker.tokenize(QUERIES, "query"), ranker.tokenize(DOCS, "doc"))
    docs = ranker.represent(pairs, "doc")
    assert not queries.values.any()
    matrix = ranker.compare(queries, docs)
    assert matrix.shape == (4, 4)
    assert torch.equal(matrix[2], docs.values.flatten())
    picked = ranker.compare(queries, docs, pairs=torch.tensor([[1], [0], [3], [2]]))
    assert torch.equal(picked.flatten(), docs.values.flatten()[[1, 0, 3, 2]])
    assert len(ranker.represent(pairs.take(torch.zeros(0, dtype=torch.int64)), "doc").values) == 0


def test_parts_of_the_encoder_are_frozen_by_name_and_documents_rendered():
    ranker = made(freeze=("embeddings.position_embeddings", "layers.0"))
    frozen = {name for name, p in ranker.named_parameters() if not p.requires_grad}
    assert "classifier.whole.bert.embeddings.position_embeddings.weight" in frozen
    assert all("position_embeddings" in name or "layer.0." in name for name in frozen)
    assert ranker.render(Document("1", "a", "b")) == "a b"


@needs_peft
def test_adapters_leave_the_head_to_be_trained_whole(tmp_path):
    ranker = made(lora=Lora(rank=2))
    trained = {name for name, p in ranker.named_parameters() if p.requires_grad}
    assert any(".lora_A." in name for name in trained)
    assert {"classifier.whole.classifier.weight", "classifier.whole.bert.pooler.dense.weight"} <= trained
    assert not any(name.endswith("base_layer.weight") for name in trained)
    ranker.save(tmp_path)
    assert (scores(load(tmp_path, dtype="float64")) - scores(ranker)).abs().max() <= 1e-9


@pytest.fixture
def language_model(tmp_path) -> Path:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    torch.manual_seed(2)
    config = CONFIG_MAPPING["qwen3"](**(FAMILIES["qwen3"] | {"tie_word_embeddings": True}))
    folder = tmp_path / "asked"
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, folder / file)
    return folder


ASKED = {"head": "yes_no", "prompt": "bread {query} water {document} tea", "answers": ("tea", "water"), "length": 30}


def test_a_language_model_is_asked(language_model, tmp_path):
    from transformers import AutoModelForCausalLM

    ranker = made(language_model, **ASKED)
    assert ranker.packed
    assert ranker.asking is not None
    model = AutoModelForCausalLM.from_pretrained(language_model).double().eval()
    special, plain = ranker.tokenizer.pair_pattern()[0], ranker.tokenizer.plain
    expected = []
    for query, doc in list(zip(QUERIES, DOCS))[:1]:
        ids = [*special, *plain("bread "), *plain(query), *plain(" water "), *plain(doc), *plain(" tea")]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        expected.append(logits[plain("tea")[0]] - logits[plain("water")[0]])
    assert (scores(ranker)[:1] - torch.stack(expected)).abs().max() <= 1e-9
    assert int(ranker.join(ranker.tokenize(QUERIES, "query"), ranker.tokenize(DOCS, "doc")).lengths.max()) == 30
    out = export(ranker, tmp_path / "out")
    again = load(out, dtype="float64")
    assert isinstance(again, CrossRanker)
    assert again.asking == ranker.asking
    assert torch.equal(scores(again), scores(ranker))
    assert again.fingerprint("doc") == ranker.fingerprint("doc")
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    with pytest.raises(UsageError, match="asked"):
        verify_export(out, DOCS)


@needs_peft
def test_a_language_models_vocabulary_stays_as_it_is_under_adapters(language_model):
    ranker = made(language_model, lora=Lora(rank=2), **ASKED)
    assert all(".lora_" in name for name, p in ranker.named_parameters() if p.requires_grad)


def test_a_language_model_that_cannot_be_asked_is_refused(language_model, checkpoint):
    with pytest.raises(RecipeError, match="tokens"):
        made(language_model, **(ASKED | {"answers": ("tea", "qzx")}))
    with pytest.raises(RecipeError, match="the prompt alone"):
        made(language_model, **(ASKED | {"prompt": "tea " * 30 + "{query}{document}"}))
    with pytest.raises(ArtefactError, match="no causal language model"):
        made(TINY, **ASKED)
    with pytest.raises(RecipeError, match="prompt and answers"):
        made(language_model, answers=("tea", "water"))


def test_what_does_not_fit_a_checkpoint_is_refused(checkpoint):
    with pytest.raises(ArtefactError, match="3 labels"):
        made(checkpoint("bert", num_labels=3))
    with pytest.raises(RecipeError, match="token types"):
        made(segments=True)
    with pytest.raises(RecipeError, match="positions"):
        made(length=500)


def test_the_folder_says_what_others_take_from_it(tmp_path):
    made(length=33).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 33
