"""DPR's models: transformers' folders give its vectors; checkpoints are read and never run, hostile ones refused."""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DPRConfig, DPRContextEncoder, DPRQuestionEncoder

from rankwright.cli import main
from rankwright.errors import ArtefactError, RecipeError, UsageError
from rankwright.models import Dense, dpr, load
from rankwright.models.converting import convert
from rankwright.models.dpr import import_checkpoint
from rankwright.models.pickled import opened
from rankwright.types import Document

TINY = Path(__file__).parents[1] / "tiny" / "model"
QUESTIONS = ["who bakes bread", "why the tides rise"]
PASSAGES = [Document("1", "Bread", "of flour"), Document("2", "", "the moon " * 60), Document("3", "T", "tea")]


def encoder(kind, seed: int, projection: int):
    config = json.loads((TINY / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {name: config[name] for name in names} | {"max_position_embeddings": 96, "type_vocab_size": 1}
    torch.manual_seed(seed)
    made = kind(DPRConfig(**sizes, projection_dim=projection))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def folder_of(model, place: Path) -> str:
    model.save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, place / name)
    return str(place)


def expected(model, texts: list[tuple[str, str]]) -> torch.Tensor:
    """transformers' own vectors of pairs, one text at a time, all of them under segment 0."""
    tokenizer, rows = AutoTokenizer.from_pretrained(TINY), []
    for title, text in texts:
        ids = tokenizer(title, text)["input_ids"] if title else tokenizer(text)["input_ids"]
        ids = [*ids[:63], tokenizer.sep_token_id] if len(ids) > 64 else ids  # as SR-DPR cuts
        with torch.no_grad():
            rows.append(model(torch.tensor([ids])).pooler_output[0])
    return torch.stack(rows)


def asked(model) -> torch.Tensor:
    return expected(model, [("", text) for text in QUESTIONS])


def vectors(ranker, side, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return ranker.represent(ranker.tokenize(texts, side), side).values[:, 0]


@pytest.fixture(params=[0, 8], ids=["cls", "projected"])
def pair(request):
    return encoder(DPRQuestionEncoder, 1, request.param), encoder(DPRContextEncoder, 2, request.param)


def check(ranker, question, context) -> None:
    found = vectors(ranker, "query", QUESTIONS)
    assert torch.allclose(found, asked(question), atol=1e-5)
    docs = vectors(ranker, "doc", [ranker.render(document) for document in PASSAGES])
    wanted = expected(context, [(document.title, document.text) for document in PASSAGES])
    assert torch.allclose(docs, wanted, atol=1e-5)
    assert found.norm(dim=-1).std() > 0  # a dot product: nothing is normalised


def test_folders_of_transformers_give_its_vectors_and_are_saved_as_ours(pair, tmp_path: Path):
    question, context = pair
    one, two = folder_of(question, tmp_path / "question"), folder_of(context, tmp_path / "context")
    ranker = Dense(one, doc_backbone=two, query_length=64, doc_length=64).load()
    check(ranker, question, context)
    ranker.save(tmp_path / "ours")
    check(load(tmp_path / "ours"), question, context)
    alone = Dense(two, query_length=64, doc_length=64).load()
    assert torch.allclose(vectors(alone, "query", QUESTIONS), asked(context), atol=1e-5)


def test_cosine_is_the_cosine(pair, tmp_path: Path):
    one, two = folder_of(pair[0], tmp_path / "question"), folder_of(pair[1], tmp_path / "context")
    spec = Dense(one, doc_backbone=two, similarity="cosine", query_length=64, doc_length=64)
    wanted = torch.nn.functional.normalize(asked(pair[0]), dim=-1)
    assert torch.allclose(vectors(spec.load(), "query", QUESTIONS), wanted, atol=1e-5)


def test_the_documents_encoder_can_be_frozen():
    ranker = Dense(str(TINY), doc_backbone=str(TINY), freeze_docs=True, projection=4).load()
    trained = {name.split(".")[1] for name, p in ranker.named_parameters() if p.requires_grad}
    assert trained == {"query"}
    assert Dense(str(TINY), freeze_docs=True, pooling="cls").started_from("x").freeze_docs
    with pytest.raises(RecipeError, match="one encoder serves"):
        Dense(str(TINY), freeze_docs=True).load()


# --- checkpoints ---


def state(question, context) -> dict:
    """What DPR, GC-DPR and SR-DPR save, settings and optimizer included."""
    weights = collections.OrderedDict()
    for prefix, model in (("question_model.", question.question_encoder), ("ctx_model.", context.ctx_encoder)):
        for name, tensor in model.state_dict().items():
            weights[prefix + name.removeprefix("bert_model.")] = tensor
        weights[prefix + "pooler.dense.weight"] = torch.ones(2, 2)
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}
    params = {"sequence_length": 64, "do_lower_case": True, "pretrained_model_cfg": "bert-base-uncased"}
    return {
        "model_dict": weights, "optimizer_dict": optimizer, "scheduler_dict": {}, "offset": 0, "epoch": 39,
        "encoder_params": params, "cpu_state": torch.get_rng_state(), "args": argparse.Namespace(seed=1),
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_checkpoints_become_model_folders(pair, layout: str, tmp_path: Path):
    file = tmp_path / "dpr_biencoder.40"
    torch.save(state(*pair), file, _use_new_zipfile_serialization=layout == "zip")
    made = import_checkpoint(file, tmp_path / "out", base=str(TINY))
    assert (made.encoders, made.settings["sequence_length"]) == (2, 64)
    check(load(tmp_path / "out"), *pair)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out"}


def test_the_verb_says_what_was_made_and_what_to_run_next(pair, tmp_path: Path, capsys):
    content = state(*pair)
    content["encoder_params"]["pretrained_model_cfg"] = "\x1b[31mred"  # a terminal would obey
    torch.save(content, tmp_path / "best.cp")
    main(["import-dpr", str(tmp_path / "best.cp"), "--base", str(TINY), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert f"model: {tmp_path / 'out'}  (2 encoder(s); its training: " in said
    assert "\x1b" not in said
    assert f"next:  rankwright encode {tmp_path / 'out'} DATA --out vectors" in said


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_every_tensor_is_read_to_its_bits(layout: str, tmp_path: Path):
    file = tmp_path / "x.cp"
    whole = torch.arange(24.0).view(4, 6)
    tensors = {
        "half": torch.randn(3, 2).half(), "bfloat": torch.randn(5).bfloat16(), "long": torch.arange(7),
        "bool": torch.tensor([True, False]), "row": whole[2], "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }  # fmt: skip
    torch.save(tensors | {"turned": whole.T}, file, _use_new_zipfile_serialization=layout == "zip")
    with opened(file) as found:
        for name, tensor in tensors.items():
            stored = found.content[name]
            assert stored.shape == tuple(tensor.shape)
            raw = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            assert bytes(found.read(stored)) == raw, name
        with pytest.raises(ArtefactError, match="row by row"):
            found.read(found.content["turned"])


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("thing", [Evil(), Path("x"), io.BytesIO, print], ids=["system", "path", "class", "function"])
def test_whatever_is_no_tensor_is_refused_and_not_run(thing, layout: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.cp"
    content = {"model_dict": {"question_model.x": torch.ones(2)}, "more": thing}
    torch.save(content, file, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(ArtefactError, match="its pickle asks for"), opened(file):
        pass
    if isinstance(thing, Evil):  # the same through the child process
        with pytest.raises(ArtefactError, match=r"refused: its pickle asks for (posix|nt)\.system"):
            import_checkpoint(file, tmp_path / "out", base=str(TINY))
    assert not (tmp_path / "hacked").exists()
    assert not (tmp_path / "out").exists()


def altered(file: Path, name: str, change) -> None:
    with zipfile.ZipFile(file) as old:
        parts = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(file, "w") as new:
        for part, data in parts.items():
            new.writestr(part, change(data) if part.endswith(name) else data)


CHANGES = {
    "cut": lambda data: data[:-9],
    "empty": lambda data: b"",
    "another opcode": lambda data: data.replace(b"q\x00", b"i\x00", 1),
    "a string longer than memory": lambda data: b"\x80\x02\x8d" + (1 << 60).to_bytes(8, "little") + b"x.",
    "a stack that is empty": lambda data: b"\x80\x02u.",
    "no mark": lambda data: b"\x80\x02}u.",
    "a key that is a list": lambda data: b"\x80\x02}]]s.",
    "a key of 2**60 tuples": lambda data: b"\x80\x02})q\x00" + b"0h\x00h\x00\x86q\x00" * 60 + b"K\x01s.",
    "no storage": lambda data: b"\x80\x02]Q.",
}


@pytest.mark.parametrize("name", CHANGES)
def test_damaged_pickles_are_refused(name: str, tmp_path: Path):
    file = tmp_path / "x.cp"
    torch.save({"model_dict": {"question_model.x": torch.ones(2)}}, file)
    altered(file, "data.pkl", CHANGES[name])
    with pytest.raises(ArtefactError), opened(file):
        pass


def test_damaged_checkpoints_are_refused(tmp_path: Path):
    short = tmp_path / "short.cp"
    torch.save({"model_dict": {"question_model.x": torch.ones(9)}}, short)
    altered(short, "data/0", lambda data: data[:-4])
    (tmp_path / "text.cp").write_text("hello")
    torch.save([1], tmp_path / "other.cp", _use_new_zipfile_serialization=False)
    for name, why in (("short.cp", "does not lie in its storage"), ("text.cp", "refused"), ("other.cp", "no tensors")):
        with pytest.raises(ArtefactError, match=why):
            import_checkpoint(tmp_path / name, tmp_path / "out", base=str(TINY))
    with pytest.raises(UsageError, match="no such checkpoint"):
        import_checkpoint(tmp_path / "none.cp", tmp_path / "out", base=str(TINY))


def test_a_small_file_does_not_fill_the_disk(tmp_path: Path):
    same = torch.zeros(10_000)
    torch.save({"model_dict": {f"question_model.{i}": same for i in range(9)}}, tmp_path / "x.cp")
    with pytest.raises(ArtefactError, match="larger than the file"):
        convert(tmp_path / "x.cp", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_of_numpy_are_settings(tmp_path: Path):
    torch.save({"model_dict": {}, "rng": np.random.get_state(), "loss": np.float64(3.5)}, tmp_path / "x.cp")
    with opened(tmp_path / "x.cp") as found:
        assert found.content["model_dict"] == {}


@pytest.mark.parametrize("length", ["abc", -5, 10**9])
def test_a_length_that_the_base_cannot_have_is_the_checkpoints_fault(length, tmp_path: Path, monkeypatch):
    weights = encoder(DPRQuestionEncoder, 1, 0).question_encoder.state_dict()
    weights = {name.replace("bert_model", "question_model"): tensor for name, tensor in weights.items()}
    torch.save({"model_dict": weights, "encoder_params": {"max_length": length}}, tmp_path / "x.cp")
    monkeypatch.setattr(dpr, "_child", lambda checkpoint, folder, memory: convert(checkpoint, folder))
    with pytest.raises(ArtefactError, match=r"x\.cp: does not fit .*tokens|length") as caught:
        import_checkpoint(tmp_path / "x.cp", tmp_path / "out", base=str(TINY))
    assert "--base" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"x.cp"}


@pytest.mark.parametrize("memory", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(memory: float, tmp_path: Path):
    (tmp_path / "x.cp").touch()
    with pytest.raises(UsageError, match="GiB"):
        import_checkpoint(tmp_path / "x.cp", tmp_path / "out", base=str(TINY), memory=memory)


def test_reading_has_a_limit_on_memory(tmp_path: Path):
    file = tmp_path / "big.cp"
    weight = torch.zeros(1).expand(60_000_000).contiguous()
    torch.save({"model_dict": {"question_model.x": weight}}, file)
    with pytest.raises(ArtefactError, match=r"more than 0\.2 GiB|died"):
        import_checkpoint(file, tmp_path / "out", base=str(TINY), memory=0.2)
