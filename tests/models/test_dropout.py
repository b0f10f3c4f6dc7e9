"""Keyed dropout: a mask belongs to the text and its key, whatever carries it, and replays exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rankwright.models import Dense
from rankwright.models.dropout import KeyedDropout, drawing, use_keyed_dropout

TINY = str(Path(__file__).parents[1] / "tiny" / "model")
TEXTS = [
    "bread",
    "the moon and the sun raise the tides of the sea twice a day",
    "a honey bee dances",
    "green tea tastes bitter when the water is too hot",
]
KEYS = torch.tensor([11, 12, 13, 14])


@pytest.fixture(scope="module")
def ranker():
    return Dense(TINY, dropout=0.2).load(dtype="float64").train()


def vectors(ranker, texts):
    return ranker.represent(texts, "doc").values[:, 0]


def test_a_text_has_the_same_vector_in_any_company(ranker):
    texts = ranker.tokenize(TEXTS, "doc").with_keys(KEYS)
    together = vectors(ranker, texts)
    for row in range(len(TEXTS)):
        alone = vectors(ranker, texts.take(torch.tensor([row])))
        assert (alone[0] - together[row]).abs().max() <= 1e-12
    order = torch.tensor([2, 0, 3, 1])
    assert (vectors(ranker, texts.take(order)) - together[order]).abs().max() <= 1e-12
    ranker.eval()
    assert (vectors(ranker, texts) - together).abs().max() > 1e-3, "dropout was not on"
    ranker.train()


def test_another_key_draws_another_mask(ranker):
    texts = ranker.tokenize(["the same text"] * 4, "doc").with_keys(torch.tensor([1, 2, 3, 1]))
    a, b, c, again = vectors(ranker, texts)
    assert torch.equal(a, again)
    assert min((a - b).abs().max(), (b - c).abs().max(), (a - c).abs().max()) > 1e-3


def test_without_keys_or_in_evaluation_nothing_is_dropped(ranker):
    texts = ranker.tokenize(TEXTS, "doc")
    plain = vectors(ranker, texts)
    ranker.eval()
    assert torch.equal(plain, vectors(ranker, texts.with_keys(KEYS)))
    ranker.train()


def test_the_global_generator_is_neither_read_nor_moved(ranker):
    texts = ranker.tokenize(TEXTS, "doc").with_keys(KEYS)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = vectors(ranker, texts)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, vectors(ranker, texts))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_are_unbiased_and_uncorrelated(p):
    rows, places, dim = 200, 20, 30  # 30 is no multiple of the 4 dimensions that one word serves
    module = KeyedDropout(p, 3)
    x = torch.ones(rows, places, dim, dtype=torch.float64)
    with drawing(torch.arange(rows)[:, None], torch.arange(places)[None]):
        first, second = module(x), module(x)
    sd = (p / (1 - p) / x.numel()) ** 0.5
    assert abs(first.mean() - 1) < 5 * sd
    assert abs((first == 0).double().mean() - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    centred, other = first - first.mean(), second - second.mean()
    for shifted in (other, centred.roll(1, 0), centred.roll(1, 1), centred.roll(1, 2)):  # use, text, place, dimension
        correlation = (centred * shifted).mean() / centred.var()
        assert abs(correlation) < 5 / x.numel() ** 0.5


def test_each_module_draws_its_own_mask():
    x = torch.ones(2, 5, 8)
    with drawing(torch.tensor([[1], [2]]), torch.arange(5)[None]):
        assert not torch.equal(KeyedDropout(0.5, 0)(x), KeyedDropout(0.5, 1)(x))


def test_only_active_dropout_is_replaced_and_numbered_by_name():
    model = torch.nn.ModuleDict({"b": torch.nn.Dropout(0.1), "a": torch.nn.Dropout(0.2), "c": torch.nn.Dropout(0.0)})
    use_keyed_dropout(model)
    assert [repr(model[name]) for name in "abc"] == [
        "KeyedDropout(p=0.2, number=0)",
        "KeyedDropout(p=0.1, number=1)",
        "Dropout(p=0.0, inplace=False)",
    ]


def test_gradient_checkpointing_draws_the_same_masks_again():
    grads = {}
    for checkpointing in (False, True):
        ranker = Dense(TINY, dropout=0.2, gradient_checkpointing=checkpointing).load(dtype="float64").train()
        texts = ranker.tokenize(TEXTS, "doc").with_keys(KEYS)
        out = vectors(ranker, texts)
        vectors(ranker, texts)  # another forward in between must not disturb the recomputation
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        grads[checkpointing] = [p.grad for p in ranker.parameters() if p.grad is not None]
    assert len(grads[True]) == len(grads[False]) > 30
    for plain, recomputed in zip(grads[False], grads[True]):
        assert (plain - recomputed).norm() <= 1e-12 * plain.norm().clamp(min=1e-30)


def test_the_note_says_which_dropout_is_applied(ranker):
    assert (
        ranker.training_note
        == "packed, hidden dropout 0.2, drawn by text; attention dropout 0 (the checkpoint says 0.1)"
    )
