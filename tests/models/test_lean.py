"""Slim graphs keep less and give the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rankwright.models.lean import mark_activations, slim


def block(activation):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(8, 32), activation, nn.Linear(32, 8), nn.LayerNorm(8))
    mark_activations(made)
    return nn.Sequential(made, nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))  # the second one is not marked


def run(model, x, *, lean):
    model.zero_grad(set_to_none=True)
    leaf = x.clone().requires_grad_()
    if lean:
        with slim():
            out = model(leaf)
    else:
        out = model(leaf)
    out.square().sum().backward()
    return [out.detach(), leaf.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "silu", "relu", "tanh", "gelu_pytorch_tanh"])
def test_the_gradient_has_the_same_bits(name):
    from transformers.activations import ACT2FN

    model, x = block(ACT2FN[name]), torch.randn(5, 7, 8)
    for plain, lean in zip(run(model, x, lean=False), run(model, x, lean=True)):
        assert torch.equal(plain, lean)


def test_the_widest_tensor_is_kept_once(monkeypatch):
    from transformers.activations import ACT2FN

    from rankwright.models import lean

    model, x = block(ACT2FN["gelu"])[0], torch.randn(64, 8)
    kept = []
    original = lean._Again

    def counted(module, source, shape):
        kept.append(shape)
        return original(module, source, shape)

    monkeypatch.setattr(lean, "_Again", counted)
    run(model, x, lean=True)
    assert kept == [(64, 32)]


def test_an_address_that_went_to_another_tensor_is_not_mistaken():
    from transformers.activations import ACT2FN

    act = ACT2FN["gelu"]
    mark_activations(nn.Sequential(act))
    weight = torch.randn(16, 16, requires_grad=True)
    with slim():
        for _ in range(20):
            dead = act(torch.randn(16, 16) @ weight)  # freed at once, so that its address is used again
            address = dead.data_ptr()
            del dead
            fresh = torch.randn(16, 16)
            out = (fresh * weight).sum()
            (grad,) = torch.autograd.grad(out, weight)
            assert torch.equal(grad, fresh), address


def test_without_a_graph_nothing_is_noted():
    from transformers.activations import ACT2FN

    model = block(ACT2FN["gelu"])
    with slim(), torch.no_grad():
        assert torch.equal(model(torch.ones(2, 8)), model(torch.ones(2, 8)))
