"""Late-interaction folders: PyLate's, Stanford's and sentence-transformers 6's are read alike, ours by all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankwright.errors import ArtefactError
from rankwright.models import Dense, Late, LateRanker, export, exports, load, verify_export
from rankwright.models.late_folders import PUNCTUATION, kind_of

TINY = Path(__file__).parents[1] / "tiny" / "model"
TEXTS = ["sourdough bread", "the moon, and the sun raise the tides.", "tea", "... !", "water " * 100]
VARIANTS = {
    "default": {},
    "attends": {"attend_to_expansion": True},
    "no expansion": {"query_expansion": False},
    "prompts": {"query_prompt": "find ", "doc_prompt": "soil "},
    "no skip list": {"skiplist": ()},
    "no markers": {"query_marker": "", "doc_marker": ""},
    "dot": {"similarity": "dot"},
    "dot, no skip list": {"similarity": "dot", "skiplist": (), "query_expansion": False},
    "another template": {"template": "{text} | {title}"},
}


def made(**fields) -> LateRanker:
    ranker = Late(str(TINY), **({"dim": 16, "query_length": 12, "doc_length": 30} | fields)).load()
    assert isinstance(ranker, LateRanker)
    return ranker


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "late"
    path.mkdir()
    made().save(path)
    return path


def represent(ranker, side):
    with torch.no_grad():
        return ranker.represent(ranker.tokenize(TEXTS, side), side)


def same(one, other) -> bool:
    pairs = [(represent(one, side), represent(other, side)) for side in ("query", "doc")]
    return all(torch.equal(a.mask, b.mask) and (a.values - b.values).abs().max() <= 1e-6 for a, b in pairs)


def edit(path: Path, **changes) -> None:
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({k: v for k, v in (old | changes).items() if v != "drop"}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_is_what_is_loaded(variant, tmp_path):
    ranker = made(**VARIANTS[variant])
    ranker.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, LateRanker)
    for side in ("query", "doc"):
        assert again.fingerprint(side) == ranker.fingerprint(side)
        assert torch.equal(represent(again, side).values, represent(ranker, side).values)
    assert again.template == ranker.template
    assert again.normalised == ranker.normalised
    assert again.skiplist == ranker.skiplist


@pytest.mark.parametrize("variant", VARIANTS)
def test_sentence_transformers_reads_the_same_token_vectors_and_scores(variant, tmp_path):
    library = pytest.importorskip("sentence_transformers", minversion="6.0")
    ranker = made(**VARIANTS[variant])
    ranker.save(tmp_path)
    model = library.MultiVectorEncoder(str(tmp_path), device="cpu", local_files_only=True)
    theirs = {"query": model.encode_query(TEXTS), "doc": model.encode_document(TEXTS)}
    ours = {side: represent(ranker, side) for side in theirs}
    for side, rows in theirs.items():
        for row, vectors in enumerate(rows):
            mine = ours[side].values[row][ours[side].mask[row]]
            assert mine.shape == vectors.shape
            assert (mine - vectors).abs().max() <= 1e-5
    scores = model.similarity(theirs["query"], theirs["doc"])
    assert (ranker.compare(ours["query"], ours["doc"]) - scores).abs().max() <= 1e-6 * scores.abs().max().clamp(min=10)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_folder_that_sentence_transformers_wrote(similarity, tmp_path):
    library = pytest.importorskip("sentence_transformers", minversion="6.0")
    folder = tmp_path / "late"
    folder.mkdir()
    made(similarity=similarity).save(folder)
    library.MultiVectorEncoder(str(folder), device="cpu", local_files_only=True).save(str(tmp_path / "native"))
    assert json.loads((tmp_path / "native/config_sentence_transformers.json").read_text())["model_type"] != "ColBERT"
    ranker = load(tmp_path / "native")
    assert isinstance(ranker, LateRanker)
    assert ranker.limits == {"query": 12, "doc": 30}
    assert ranker.normalised is (similarity == "cosine")
    assert same(ranker, load(folder))


def test_a_normalisation_of_something_else_is_refused(tmp_path):
    """sentence-transformers 6 would leave the token vectors as they are."""
    made(similarity="dot").save(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_N", "type": "sentence_transformers.base.modules.Normalize"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "3_N").mkdir()
    edit(tmp_path / "3_N/config.json", module_input_name="sentence_embedding")
    with pytest.raises(ArtefactError, match="Normalize module of 'sentence_embedding'"):
        load(tmp_path)
    edit(tmp_path / "3_N/config.json", module_input_name="token_embeddings")
    assert same(load(tmp_path), made())


def test_verify_export_covers_it(folder, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers", minversion="6.0")
    out = export(load(folder), tmp_path / "out")
    assert {check.verdict for check in verify_export(out, TEXTS)} == {"equal"}
    for odd in (lambda *_: np.zeros((5, 16)), lambda *_: np.zeros((int(represent(load(out), "doc").mask.sum()), 16))):
        monkeypatch.setitem(exports._LATE_READERS, "sentence-transformers", odd)
        assert {check.verdict for check in verify_export(out, TEXTS)} == {"differs"}


def test_a_folder_of_pylate_states_little(folder):
    """An old one: no rankwright.json, no model type, the marker token with its space, the usual settings left out."""
    (folder / "rankwright.json").unlink()
    general = folder / "config_sentence_transformers.json"
    edit(general, model_type="drop", skiplist_words="drop", do_query_expansion="drop", query_prefix="[Q] ",
         attend_to_expansion_tokens="drop", similarity_fn_name="MaxSim")  # fmt: skip
    ranker = load(folder)
    assert isinstance(ranker, LateRanker)
    assert ranker.skiplist == PUNCTUATION
    assert ranker.expansion is not None
    assert same(ranker, made())


@pytest.fixture
def stanford(folder, tmp_path) -> Path:
    """The same model as Stanford ColBERT writes it: one checkpoint, `bert.` in front, the projection inside."""
    path = tmp_path / "stanford"
    path.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, path / name)
    edit(path / "config.json", architectures=["HF_ColBERT"])
    weights = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights | load_file(folder / "1_Dense/model.safetensors"), path / "model.safetensors", {"format": "pt"})
    edit(path / "artifact.metadata", query_token_id="[Q]", doc_token_id="[D]", query_maxlen=12, doc_maxlen=30,
         similarity="cosine", dim=16)  # fmt: skip
    return path


def test_a_folder_of_stanford_colbert(stanford):
    assert kind_of(stanford) == "Late"
    assert same(load(stanford), made())
    edit(stanford / "artifact.metadata", mask_punctuation=False, attend_to_mask_tokens=True)
    assert same(load(stanford), made(skiplist=(), attend_to_expansion=True))


def test_a_dense_folder_becomes_late_and_a_late_one_is_not_dense(folder):
    assert kind_of(TINY) == "Dense"
    ranker = made()
    assert ranker.width == 16
    assert isinstance(Late(str(folder), dropout=0.0).load(), LateRanker)
    with pytest.raises(ArtefactError, match="holds 'Late'"):
        Dense(str(folder)).load()


def test_a_backbone_of_another_layout_keeps_its_projection(folder):
    from rankwright.errors import RecipeError

    assert Late(str(folder), dim=16, query_length=9).load().limits["query"] == 9
    with pytest.raises(RecipeError, match="the folder's projection has 16"):
        Late(str(folder), dim=8).load()


@pytest.mark.parametrize(
    ("file", "changes", "what"),
    [
        ("config_sentence_transformers.json", {"similarity_fn_name": "MeanMaxSim"}, "similarity"),
        ("config_sentence_transformers.json", {"query_length": "long"}, "query_length"),
        ("config_sentence_transformers.json", {"query_prefix": 3}, "query_prefix"),
        ("config_sentence_transformers.json", {"skiplist_words": "."}, "skiplist_words"),
        ("config_sentence_transformers.json", {"auto_map": {"x": "y"}}, "custom code"),
        ("1_Dense/config.json", {"activation_function": "os.system"}, "Dense module"),
        ("rankwright.json", {"format": 99}, "format 99"),
    ],
)
def test_odd_folders_are_refused(file, changes, what, folder):
    edit(folder / file, **changes)
    with pytest.raises(ArtefactError, match=what):
        load(folder)


def test_stanford_weights_without_a_projection_are_refused(stanford):
    weights = load_file(stanford / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, stanford / "model.safetensors")
    with pytest.raises(ArtefactError, match=r"linear\.weight"):
        load(stanford)
