"""Precision: what auto means, and vectors made in bf16 beside those in float32."""

import numpy as np
import pytest
import torch

from rankwright.errors import UsageError
from rankwright.models import load, precision
from rankwright.models.backbone import FAMILIES
from rankwright.search import embed, encode

from .test_backbone import TEXTS, make


class Store:
    """Tokenised texts by row."""

    key = "some"

    def __init__(self, texts) -> None:
        self.texts, self.lengths = texts, np.diff(texts.offsets)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows):
        return self.texts.take(torch.as_tensor(rows))


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_where_it_is_native(monkeypatch, native: bool):
    monkeypatch.setattr(precision, "native_bf16", lambda kind: native)
    assert precision.chosen("auto", "cpu") == ("bf16" if native else "float32")
    assert precision.chosen("float32", "cpu") == "float32"
    if native:
        assert precision.chosen("bf16", "cpu") == "bf16"
    for name in ("fp16",) if native else ("fp16", "bf16"):
        with pytest.raises(UsageError, match=f"precision: {name} on this cpu is many times slower"):
            precision.chosen(name, "cpu")


def test_weights_stay_in_float32():
    with precision.autocast("bf16", "cpu")():
        assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).dtype == torch.bfloat16
    with precision.autocast("float32", "cpu")():
        assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).dtype == torch.float32


def test_bf16_vectors_are_close_and_have_a_key_of_their_own(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "native_bf16", lambda kind: True)
    ranker = load(tiny_model)
    words = [" ".join(["retrieval", "of", "long", "documents"][: 1 + i % 4] * (1 + i)) for i in range(20)]
    store, ids = Store(ranker.tokenize(words, "doc")), [f"d{i}" for i in range(20)]
    made = {
        name: encode(ranker, store, tmp_path / name, ids=ids, shard_rows=7, precision=name)
        for name in ("float32", "bf16", "auto")
    }
    exact, half, auto = (vectors.take(np.arange(20)) for vectors in made.values())
    assert np.array_equal(half, auto)
    assert made["bf16"].fingerprint == made["auto"].fingerprint
    assert made["float32"].fingerprint != made["bf16"].fingerprint
    assert 1e-7 < np.abs(exact - half).max() < 0.02
    assert np.allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)  # normalised in float32
    kept = embed(ranker, store, ids=ids, side="doc", precision="bf16").take(np.arange(20))
    assert np.array_equal(kept, half)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_and_encodes_in_bf16(name: str, tmp_path):
    ranker = load(make(name, tmp_path / "made"))
    texts = ranker.tokenize(TEXTS, "doc")
    gradients = []
    for arithmetic in ("float32", "bf16"):
        ranker.zero_grad()
        with precision.autocast(arithmetic, "cpu")():
            values = ranker.represent(texts, "doc").values
        values.float()[:, 0].cumsum(0).pow(2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ranker.parameters() if p.grad is not None]))
    exact, half = gradients
    assert torch.nn.functional.cosine_similarity(exact, half, dim=0) > 0.98
