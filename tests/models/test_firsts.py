"""A score from the first token: the rest of the last layer is spared the other tokens, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rankwright.models import Cross
from rankwright.models.firsts import first_vectors
from rankwright.models.hidden import token_vectors
from rankwright.models.packing import Packing
from rankwright.models.pooling import pool
from rankwright.types import Texts

TINY = str(Path(__file__).parents[1] / "tiny" / "model")
TEXTS = Texts(torch.arange(3, 15), torch.tensor([0, 5, 6, 12]))


@pytest.fixture
def seen():
    """A classifier, and how many tokens its layers' feed-forward parts were given."""
    classifier, sizes = Cross(TINY, length=30, dropout=0.1).load(dtype="float64", seed=4).classifier, []
    for layer in classifier.backbone.encoder.layer:
        layer.intermediate.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[1]))
    return classifier, sizes


def test_the_last_layer_reads_the_first_tokens_alone(seen):
    classifier, sizes = seen
    packing = Packing(TEXTS.offsets)
    with torch.no_grad():
        expected = pool(token_vectors(classifier.backbone, TEXTS, packing), packing, "cls")
        sizes.clear()
        found = first_vectors(classifier.backbone, TEXTS, packing)
        assert sizes[-1] == 3
        assert set(sizes[:-1]) == {12}
        assert (found - expected).abs().max() <= 1e-12
        sizes.clear()
        classifier(TEXTS)
        assert sizes[-1] == 3


def test_gradients_are_those_of_all_tokens(seen):
    classifier, _ = seen
    packing, made = Packing(TEXTS.offsets), []
    for way in (lambda: pool(token_vectors(classifier.backbone, TEXTS, packing), packing, "cls"),
                lambda: first_vectors(classifier.backbone, TEXTS, packing)):  # fmt: skip
        classifier.zero_grad()
        way().square().sum().backward()
        made.append([p.grad.clone() for p in classifier.backbone.parameters() if p.grad is not None])
    assert len(made[0]) == len(made[1]) > 10
    assert all((a - b).abs().max() <= 1e-12 for a, b in zip(*made))


def test_where_dropout_is_drawn_every_token_goes_through(seen):
    classifier, sizes = seen
    classifier.train()
    classifier(TEXTS.with_keys(torch.arange(3)))
    assert set(sizes) == {12}
