"""More positions: tables against NumPy, rotary scaling against transformers, and folders that others open as long."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import storage
from rankwright.errors import RecipeError
from rankwright.models import Cross, Dense, Late, load
from rankwright.models.positions import longer

TINY = Path(__file__).parents[1] / "tiny" / "model"
SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 80, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
    "sep_token_id": 3,
}  # fmt: skip
OTHER = {
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "vocab_size": 300,
                   "max_position_embeddings": 80, "pad_token_id": 0},
    "electra": {**SMALL, "embedding_size": 32}, "albert": {**SMALL, "embedding_size": 16},
    "mpnet": {**SMALL, "pad_token_id": 1},  # MPNet's embeddings know no other
    "modernbert": {**SMALL, "local_attention": 8}, "t5": {"vocab_size": 300, "d_model": 32, "num_layers": 1},
    **{name: {**SMALL, "num_key_value_heads": 1, "head_dim": 16} for name in ("qwen3", "llama")},
}  # fmt: skip
ABSOLUTE = ("bert", "roberta", "distilbert", "electra", "albert", "mpnet")
ROTARY = ("modernbert", "nomic_bert", "qwen3", "llama")
LONG = "the moon raises the tides of the sea " * 60


def make(name: str, folder: Path) -> Path:
    """A plain Hugging Face checkpoint with random weights and the tiny model's tokenizer."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    torch.manual_seed(1)
    config = CONFIG_MAPPING[name](**OTHER.get(name, SMALL))
    MODEL_MAPPING[type(config)](config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, folder / file)
    return folder


def table_of(ranker) -> np.ndarray:
    return ranker.encoder("doc").backbone.get_submodule("embeddings.position_embeddings").weight.detach().numpy()


def test_tables_are_continued_as_numpy_would():
    old = np.random.default_rng(0).normal(size=(7, 3))
    table = torch.from_numpy(old)
    assert np.array_equal(longer(table, 17, "tiled").numpy(), np.concatenate([old, old, old])[:17])
    at = np.linspace(0, 6, 17)
    expected = np.stack([np.interp(at, np.arange(7), column) for column in old.T], axis=1)
    assert np.abs(longer(table, 17, "interpolated").numpy() - expected).max() < 1e-12
    drawn = longer(table, 4007, "random", spread=0.5).numpy()
    assert np.array_equal(drawn[:7], old)
    assert abs(drawn[7:].std() - 0.5) < 0.01
    assert abs(drawn[7:].mean()) < 0.02
    assert np.array_equal(drawn, longer(table, 4007, "random", spread=0.5).numpy())
    assert not np.array_equal(drawn, longer(table, 4007, "random", spread=0.5, seed=1).numpy())


@pytest.mark.parametrize("name", ABSOLUTE)
@pytest.mark.parametrize("how", ["random", "tiled", "interpolated"])
def test_an_extended_encoder_opens_at_its_new_length_everywhere(name, how, tmp_path):
    """In transformers and sentence-transformers the saved folder gives our vectors of a text of the new length."""
    from transformers import AutoModel, AutoTokenizer

    folder = make(name, tmp_path / "made")
    old = table_of(load(folder))
    first = {"roberta": 1, "mpnet": 2}.get(name, 0)  # their positions begin behind the padding token's id
    ranker = Dense(str(folder), positions=200, extension=how).load()
    assert ranker.limits == {"query": 200, "doc": 200}
    new = table_of(ranker)
    assert new.shape == (200 + first, old.shape[1])
    assert np.array_equal(new[:first], old[:first])
    assert np.array_equal(new[: len(old)], old) == (how != "interpolated")
    if how == "tiled":
        assert np.array_equal(new[len(old) :][:5], old[first:][:5])
    with storage.publish(tmp_path / "saved", "model") as draft:
        ranker.save(draft.path)
    texts = ranker.tokenize([LONG, "tea"], "doc")
    assert texts.lengths.tolist()[0] == 200
    with torch.no_grad():
        ours = ranker.represent(texts, "doc").values[:, 0]
        again = load(tmp_path / "saved")
        assert again.limits == ranker.limits
        assert torch.equal(again.represent(texts, "doc").values[:, 0], ours)
        model, tokenizer = (c.from_pretrained(tmp_path / "saved") for c in (AutoModel, AutoTokenizer))
        assert tokenizer.model_max_length == 200
        ids = tokenizer(LONG, truncation=True, return_tensors="pt")["input_ids"]
        assert ids.shape[1] == 200
        mean = model.eval()(input_ids=ids).last_hidden_state[0].mean(0)
    assert np.abs(ours[0].numpy() - (mean / mean.norm()).numpy()).max() < 1e-5
    theirs = _sentence_transformers(tmp_path / "saved")
    assert theirs.max_seq_length == 200
    assert np.abs(theirs.encode([LONG, "tea"]) - ours.numpy()).max() < 1e-5


def _sentence_transformers(folder):
    given = pytest.importorskip("sentence_transformers")
    return given.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize("how", ["linear", "ntk", "yarn"])
def test_rotary_frequencies_are_scaled_as_transformers_does(name, how, tmp_path):
    from transformers import AutoConfig, AutoModel

    folder = make(name, tmp_path / "made")
    config = AutoConfig.from_pretrained(folder)
    rotary = config.rope_parameters
    own = rotary.get("full_attention", rotary)
    factor, dim = 320 / SMALL["max_position_embeddings"], 16
    if how == "ntk":
        own["rope_theta"] *= factor ** (dim / (dim - 2))
    else:
        more = {"original_max_position_embeddings": 80} if how == "yarn" else {}
        own.update({"rope_type": how, "factor": factor, **more})
    config.max_position_embeddings = 320
    expected = AutoModel.from_pretrained(folder, config=config).double().eval()
    ranker = Dense(str(folder), positions=320, extension=how).load(dtype="float64")
    texts = ranker.tokenize([LONG], "doc")
    assert texts.lengths.tolist() == [320]
    with storage.publish(tmp_path / "saved", "model") as draft:
        ranker.save(draft.path)
    saved = AutoModel.from_pretrained(tmp_path / "saved").double().eval()
    with torch.no_grad():
        mean = expected(input_ids=texts.values[None]).last_hidden_state[0].mean(0)
        ours = ranker.represent(texts, "doc").values[0, 0]
        assert float((ours - mean / mean.norm()).abs().max()) < 1e-6
        plain = load(folder, dtype="float64")
        short = plain.tokenize(["tea and bread and water"], "doc")
        assert not torch.allclose(plain.represent(short, "doc").values, ranker.represent(short, "doc").values)
        again = saved(input_ids=texts.values[None]).last_hidden_state[0].mean(0)
        assert float((again - mean).abs().max()) < 1e-6


def test_late_and_cross_are_extended_too(tmp_path, tiny_model):
    late = Late(str(tiny_model), positions=300, query_length=16).load()
    assert late.limits == {"query": 16, "doc": 300}
    cross = Cross(str(tiny_model), positions=300).load()
    assert cross.join.length == 300
    with torch.no_grad():
        late.represent(late.tokenize([LONG], "doc"), "doc")
        pair = cross.join(cross.tokenize(["tea"], "query"), cross.tokenize([LONG], "doc"))
        assert pair.lengths.tolist() == [300]
        scores = cross.represent(pair, "doc").values
    for number, ranker in enumerate((late, cross)):
        with storage.publish(tmp_path / str(number), "model") as draft:
            ranker.save(draft.path)
        assert load(tmp_path / str(number)).limits == ranker.limits
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "1").eval()
    with torch.no_grad():
        theirs = model(input_ids=pair.values[None]).logits[0, 0]
    assert float((theirs - scores[0, 0, 0]).abs()) < 1e-5


def test_published_settings_freeze_the_whole_table(tiny_model):
    """LongSeqEfficientTrainer's table receives no gradient, old rows included."""
    ranker = Dense(
        str(tiny_model), positions=120, extension="random", freeze=("embeddings.position_embeddings",)
    ).load()  # fmt: skip
    frozen = {name.rpartition("backbone.")[2] for name, p in ranker.named_parameters() if not p.requires_grad}
    assert "embeddings.position_embeddings.weight" in frozen
    assert "embeddings.word_embeddings.weight" not in frozen


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positions": 96}, "has 96 already"),
        ({"positions": 200, "extension": "yarn"}, "not for bert"),
        ({"extension": "tiled"}, "without positions"),
        ({"positions": 200, "extension": "wavy"}, "extension is 'wavy'"),
        ({"positions": 3}, "positions is 3"),
    ],
)
def test_what_does_not_fit_is_refused(given, message, tiny_model):
    with pytest.raises(RecipeError, match=message):
        Dense(str(tiny_model), **given).load()


def test_relative_and_scaled_positions_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="measures distances"):
        Dense(str(make("t5", tmp_path / "t5")), positions=200).load()
    folder = make("llama", tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="scaled already"):
        Dense(str(folder), positions=200).load()
    with pytest.raises(RecipeError, match="tiled is not for llama"):
        Dense(str(folder), positions=200, extension="tiled").load()


# --- queries that are cut from the left ------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "find bread: "])
def test_a_query_that_is_too_long_keeps_its_last_tokens(prompt, tiny_model, tmp_path):
    ranker = Dense(str(tiny_model), query_length=12, query_cut="left", query_prompt=prompt).load()
    plain = Dense(str(tiny_model), query_length=96, query_prompt=prompt).load()
    texts = ["user: where is the moon\nagent: above the sea\nuser: and the tides", "tea"]
    whole, made = plain.tokenize(texts, "query"), ranker.tokenize(texts, "query")
    ids, ours = whole.values[: whole.lengths[0]].tolist(), made.values[: made.lengths[0]].tolist()
    head = 1 if prompt == "" else len(plain.tokenize([""], "query").values) - 1  # [CLS] and the prompt
    assert ours == ids[:head] + ids[head - 12 :]
    assert made.take(torch.tensor([1])).values.tolist() == whole.take(torch.tensor([1])).values.tolist()
    assert ranker.tokenize(texts, "doc").lengths.max() > 12
    assert ranker.tokenizer_key("query") != Dense(str(tiny_model), query_length=12).load().tokenizer_key("query")
    with storage.publish(tmp_path / "saved", "model") as draft:
        ranker.save(draft.path)
    assert torch.equal(load(tmp_path / "saved").tokenize(texts, "query").values, made.values)


def byte_level(folder: Path) -> None:
    """A tokenizer like ModernBERT's, in which a space belongs to the word behind it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [LONG], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    pairs = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pairs)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "sep_token": "[SEP]", "model_max_length": 80}))


def test_a_prompts_last_space_is_a_part_of_the_texts_first_token(tmp_path):
    """Neither a query cut from the left nor a later chunk keeps that token."""
    folder = make("modernbert", tmp_path / "made")
    byte_level(folder)
    prompt, text = "the sea: ", "moon raises the tides of the sea"
    whole = Dense(str(folder), query_prompt=prompt).load().tokenize([text], "query").values.tolist()
    head = whole.index(Dense(str(folder)).load().encoder("query").tokenizer.plain(" moon")[0])
    cut = Dense(str(folder), query_prompt=prompt, query_length=head + 5, query_cut="left").load()
    assert cut.tokenize([text], "query").values.tolist() == whole[:head] + whole[-5:]
    assert cut.encoder("query").tokenizer.head(prompt) == head
    assert cut.encoder("query").tokenizer.head("") == 1


def test_late_and_cross_keep_the_last_tokens_of_queries_alone(tiny_model, tmp_path):
    text = "where is the moon above the sea and the tides of the rain"
    late = Late(str(tiny_model), query_length=8, query_expansion=False, query_cut="left").load()
    whole = Late(str(tiny_model), query_length=60, query_expansion=False).load().tokenize([text], "query").values
    assert late.tokenize([text], "query").values.tolist() == [*whole[:2].tolist(), *whole[-6:].tolist()]
    cross = Cross(str(tiny_model), query_length=5, query_cut="left", length=64).load()
    tokens = cross.tokenizer.plain(text)
    pair = cross.join(cross.tokenize([text], "query"), cross.tokenize([text * 9], "doc")).values.tolist()
    assert pair[1:6] == tokens[-5:]
    assert pair[7:-1] == cross.tokenizer.plain(text * 9)[: 64 - 8]
    for number, ranker in enumerate((late, cross)):
        with storage.publish(tmp_path / str(number), "model") as draft:
            ranker.save(draft.path)
        again = load(tmp_path / str(number))
        assert torch.equal(again.tokenize([text], "query").values, ranker.tokenize([text], "query").values)
        assert again.tokenizer_key("query") == ranker.tokenizer_key("query")
