"""Packed and padded texts give the same token vectors, gradients and dropout masks; attention keeps texts apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.models.backbone import FAMILIES
from rankwright.models.dropout import use_keyed_dropout
from rankwright.models.hidden import adopt_packing, token_vectors
from rankwright.models.packing import NAME, Packing, _padded, attend
from rankwright.types import Texts

SHAPE = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 200, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
    "sep_token_id": 3, "use_cache": False, "attention_dropout": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
DISTANCES = {
    "vocab_size": 90, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "pad_token_id": 1,
}  # fmt: skip
UNPACKED = {
    "mpnet": "padded (eager attention)",
    "umt5": "padded (its position bias is built anew in every layer)",
}
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
OTHER = {
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 90,
                   "max_position_embeddings": 200, "pad_token_id": 1, "attention_dropout": 0.0, "dropout": 0.2},
    "modernbert": SHAPE | {"mlp_dropout": 0.2, "local_attention": 16},
    "mistral": GROUPED | {"sliding_window": 5}, "qwen2": GROUPED, "qwen3": GROUPED, "llama": GROUPED,
    "t5": DISTANCES, "mt5": DISTANCES | {"feed_forward_proj": "gated-gelu"}, "umt5": DISTANCES,
}  # fmt: skip


def backbone(name):
    from transformers import CONFIG_MAPPING, MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    torch.manual_seed(3)
    config = CONFIG_MAPPING[name](**(OTHER.get(name, SHAPE | {"hidden_dropout_prob": 0.2})))
    config._attn_implementation = "sdpa" if name != "mpnet" else "eager"
    classes = MODEL_FOR_TEXT_ENCODING_MAPPING if "t5" in name else MODEL_MAPPING
    model = classes[type(config)](config).double()
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # of attention probabilities, as `load_backbone` does
    return model


def some_texts(sizes, *, keys):
    sizes = torch.tensor(sizes)
    ids = torch.randint(0, 90, (int(sizes.sum()),), generator=torch.Generator().manual_seed(1))  # padding ids too
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return Texts(ids, offsets, torch.arange(len(sizes)) + 7 if keys else None)


def gradients(model, texts):
    model.zero_grad(set_to_none=True)
    made = token_vectors(model, texts, Packing(texts.offsets))
    weights = torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view_as(made)
    (made * weights).sum().backward()
    return made.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_equals_padded_in_vectors_and_gradients_with_dropout_on(name):
    model = backbone(name)
    use_keyed_dropout(model)
    texts = some_texts([31, 31, 30, 12, 1], keys=True)
    model.train()
    padded, expected = gradients(model, texts)
    note = adopt_packing(model)
    assert model.training
    if name in UNPACKED:
        assert note == UNPACKED[name]
        return
    assert note == "packed"
    assert model.config._attn_implementation == NAME
    packed, found = gradients(model, texts)
    assert (packed - padded).abs().max() < 1e-11
    assert found.keys() == expected.keys()
    for parameter, grad in expected.items():
        assert (found[parameter] - grad).norm() <= 1e-11 * max(1.0, float(grad.norm())), parameter
    model.eval()
    without = token_vectors(model, texts.with_keys(None), Packing(texts.offsets))
    assert bool(FAMILIES[name].hidden) == bool((without - packed).abs().max() > 1e-6)


def test_an_architecture_that_mixes_packed_texts_stays_padded(monkeypatch):
    model = backbone("bert")
    usual = model.config._attn_implementation

    def mixing(module, query, key, value, attention_mask, packing, **_):
        whole = Packing(torch.tensor([0, query.shape[2]]))
        return attend(module, query, key, value, None, whole)

    monkeypatch.setattr("rankwright.models.hidden.attend", mixing)
    assert adopt_packing(model) == "padded (this architecture mixes packed texts)"
    assert model.config._attn_implementation == usual


def reference(q, k, v, sizes, *, scale, causal, window, bias=None):
    """float64 softmax attention, one text and one head at a time, in NumPy's way."""
    made, first = torch.zeros_like(q), 0
    for size in sizes:
        at = slice(first, first + size)
        place = torch.arange(size)
        apart = place[:, None] - place[None]
        seen = torch.ones(size, size, dtype=torch.bool) if not causal else apart >= 0
        seen = seen if window is None else seen & (apart.abs() < window)
        for head in range(q.shape[1]):
            group = head // (q.shape[1] // k.shape[1])
            scores = (q[at, head] @ k[at, group].T * scale).masked_fill(~seen, float("-inf"))
            if bias is not None:
                scores = scores + bias[0, head, :size, :size]
            made[at, head] = scores.softmax(-1) @ v[at, group]
        first += size
    return made


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), causal=st.booleans(),
    window=st.none() | st.integers(1, 10), groups=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_is_within_each_text(sizes, causal, window, groups, seed):
    draw = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    q = torch.randn(total, 4, 8, dtype=torch.float64, generator=draw)
    k, v = (torch.randn(total, groups, 8, dtype=torch.float64, generator=draw) for _ in range(2))
    packing = Packing(torch.tensor([0, *sizes]).cumsum(0))
    expected = reference(q, k, v, sizes, scale=0.3, causal=causal, window=window)
    states = (x.transpose(0, 1)[None] for x in (q, k, v))
    made, _ = attend(torch.nn.Identity(), *states, None, packing, 0.3, causal, window)
    assert (made[0] - expected).abs().max() < 1e-12
    wide = (x.repeat_interleave(4 // x.shape[1], dim=1) for x in (q, k, v))
    assert (_padded(*wide, packing, 0.3, causal, window) - expected).abs().max() < 1e-12


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_position_bias_is_added_to_the_scores(sizes, seed):
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(sum(sizes), 4, 8, dtype=torch.float64, generator=draw) for _ in range(3))
    bias = torch.randn(1, 4, max(sizes), max(sizes), dtype=torch.float64, generator=draw).requires_grad_()
    packing = Packing(torch.tensor([0, *sizes]).cumsum(0))
    expected = reference(q, k, v, sizes, scale=1.0, causal=False, window=None, bias=bias)
    (slope,) = torch.autograd.grad(expected.square().sum(), bias)
    states = (x.transpose(0, 1)[None] for x in (q, k, v))
    by_runs = attend(torch.nn.Identity(), *states, None, packing, 1.0, position_bias=bias)[0][0]
    for made in (by_runs, _padded(q, k, v, packing, 1.0, False, None, bias)):
        assert (made - expected).abs().max() < 1e-12
        assert (torch.autograd.grad(made.square().sum(), bias)[0] - slope).abs().max() < 1e-12


def test_packing_knows_its_runs_and_places():
    packing = Packing(torch.tensor([0, 3, 6, 7, 10]))
    assert packing.runs == [(2, 3), (1, 1), (1, 3)]
    assert packing.places.tolist() == [0, 1, 2, 0, 1, 2, 0, 0, 1, 2]
    assert packing.real.tolist() == [[True] * 3, [True] * 3, [True, False, False], [True] * 3]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", "modernbert", "qwen3"])
def test_packed_on_cuda_equals_the_cpu(name, dtype):
    model, texts = backbone(name).float().eval(), some_texts([31, 31, 30, 12, 1], keys=False)
    adopt_packing(model)
    with torch.no_grad():
        expected = token_vectors(model, texts, Packing(texts.offsets))
        made = token_vectors(model.to("cuda", dtype), texts.to("cuda"), Packing(texts.offsets.to("cuda")))
    assert (made.cpu().float() - expected).abs().max() <= (1e-4 if dtype == torch.float32 else 0.1)
