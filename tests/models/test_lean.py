"""Slim graphs keep less and give the same bits."""

from __future__ import annotations

import weakref

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


def test_an_output_changed_in_place_is_kept():
    from transformers.activations import ACT2FN

    act, weight = ACT2FN["gelu"], torch.randn(16, 16, requires_grad=True)
    mark_activations(nn.Sequential(act))
    x = torch.randn(4, 16, requires_grad=True)
    with slim():
        hidden = act(x)
        hidden *= 2
        out = (hidden @ weight).sum()
    (grad,) = torch.autograd.grad(out, weight)
    assert torch.equal(grad, hidden.detach().T @ torch.ones(4, 16))


def test_what_autocast_computed_in_another_precision_is_kept():
    class Wide(nn.GELU):
        def forward(self, x):
            return super().forward(x.float() if torch.is_autocast_enabled("cpu") else x)

    act, weight = Wide(), torch.randn(16, requires_grad=True)
    mark_activations(nn.Sequential(act))
    x = torch.randn(4, 16).bfloat16().requires_grad_()
    with slim(), torch.autocast("cpu", torch.bfloat16):
        out = (act(x) * weight).sum()
    (grad,) = torch.autograd.grad(out, weight)
    assert torch.equal(grad, nn.functional.gelu(x.detach().float()).sum(0))


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_an_activation_whose_gradient_needs_its_output_is_left_alone(name, monkeypatch):
    from transformers.activations import ACT2FN

    from rankwright.models import lean

    monkeypatch.setattr(lean, "_Again", None)  # its input would be kept on top of its output
    run(block(ACT2FN[name]), torch.randn(3, 8), lean=True)


def test_under_gradient_checkpointing_no_layer_outlives_its_turn():
    from torch.utils.checkpoint import checkpoint
    from transformers.activations import ACT2FN

    from rankwright.models import lean

    layers = [nn.Sequential(nn.Linear(8, 32), ACT2FN["gelu"], nn.Linear(32, 8)) for _ in range(3)]
    for layer in layers:
        mark_activations(layer)
    x = torch.randn(5, 8, requires_grad=True)
    with slim():
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False)
            assert not lean._made.get()


def test_a_branch_that_no_backward_reaches_keeps_nothing_alive():
    """As BERT's pooler: a tanh saves its own output, and a graph through it would never end."""
    from transformers.activations import ACT2FN

    model = block(ACT2FN["gelu"])
    gone = []
    for _ in range(3):
        with slim():
            wide = model[0][1](model[0][0](torch.randn(4, 8)))
            pooled = torch.tanh(wide)  # never differentiated
            gone.append(weakref.ref(pooled))
            out = model[0][2](wide)
        out.sum().backward()
        del wide, out, pooled
    assert [ref() for ref in gone] == [None] * 3
