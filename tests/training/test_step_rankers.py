"""The gradient proof on the real rankers, built in every way: float64, dropout on, against plain autograd."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from rankwright.losses import InfoNCE, KLDivergence, LambdaLoss, RankNet
from rankwright.models import Cross, Dense, Late, Lora
from rankwright.training import Memory, Objective, Step, Term, check_gradients
from rankwright.training.step import dropout_keys
from rankwright.types import Batch, Texts

TINY = str(Path(__file__).parents[1] / "tiny" / "model")
QUERIES = ["tea", "what raises the tides of the sea", "quiet bicycle brakes", "bread"]
DOCS = [
    "sourdough bread rises slowly in a cold kitchen", "tea", "the moon raises the tides", "brakes " * 30,
    "a noise in the rain", "green tea leaves are steamed", "wheels and brakes of a bicycle",
]  # fmt: skip
TERMS = [Term(InfoNCE(0.5), "batch"), Term(InfoNCE(0.7, positives="all"), "own", 0.5)]

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
VARIANTS = {
    "shared": {},
    "dropout off": {"dropout": 0.0},
    "strong dropout": {"dropout": 0.4},
    "separate": {"doc_backbone": TINY},
    "separate, documents frozen": {"doc_backbone": TINY, "freeze_docs": True},
    "separate, dropout off": {"doc_backbone": TINY, "dropout": 0.0},
    "projection": {"projection": 12},
    "dims": {"dims": 8},
    "projection and dims": {"projection": 12, "dims": 5, "similarity": "dot"},
    "cls": {"pooling": "cls"},
    "last": {"pooling": "last", "similarity": "dot"},
    "prompts": {"query_prompt": "find bread: ", "doc_prompt": "soil ", "query_length": 9, "doc_length": 20},
    "frozen embeddings": {"freeze": ("embeddings",)},
    "frozen layers": {"freeze": ("embeddings", "layers.0"), "projection": 6},
    "checkpointed": {"gradient_checkpointing": True},
    "checkpointed, separate": {"gradient_checkpointing": True, "doc_backbone": TINY, "freeze": ("embeddings",)},
}
LATES = {
    "late": {},
    "attends to the expansion": {"attend_to_expansion": True, "dropout": 0.3},
    "no expansion": {"query_expansion": False, "skiplist": ()},
    "no markers": {"query_marker": "", "doc_marker": "", "doc_length": 12, "query_length": 20},
    "frozen, checkpointed": {"freeze": ("embeddings",), "gradient_checkpointing": True},
}
LORAS = {
    "lora": {"lora": Lora(rank=3)},
    "lora with dropout": {"lora": Lora(rank=3, dropout=0.3), "projection": 7},
    "lora, checkpointed": {"lora": Lora(rank=3, dropout=0.3), "gradient_checkpointing": True},
    "lora, separate": {"lora": Lora(rank=2), "doc_backbone": TINY, "pooling": "cls"},
}


def batch_for(ranker) -> Batch:
    lists = torch.tensor([[1, 5, 0], [2, 4, 0], [6, 3, 4], [0, 1, 2]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True], [True, False, False]])
    return Batch(
        ranker.tokenize(QUERIES, "query"), ranker.tokenize(DOCS, "doc"), lists * mask,
        torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), mask,
        torch.tensor([0, 2, 3]), torch.tensor([1, 0, 5]), torch.tensor([1.0, 1.0, 0.0]),
        tuple(f"q{i}" for i in range(len(QUERIES))), tuple(f"d{i}" for i in range(len(DOCS))),
    )  # fmt: skip


def prove(spec: Dense | Late) -> None:
    ranker = spec.load(dtype="float64", seed=5)
    with torch.no_grad():  # LoRA's B matrices are zero at first, which would hide half of its gradients
        for name, parameter in ranker.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    checks = list(check_gradients(ranker, Objective(TERMS), batch_for(ranker), seed=3))
    assert len(checks) == 5
    for check in checks:
        assert check.tolerance == 1e-12
        assert check.passed, check


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cached_gradient_is_plain_autograds(variant: str):
    prove(Dense(TINY, **VARIANTS[variant]))


@pytest.mark.parametrize("variant", LATES)
def test_the_cached_gradient_of_late_interaction_is_plain_autograds(variant: str):
    prove(Late(TINY, **({"dim": 8, "query_length": 12, "doc_length": 40} | LATES[variant])))


@needs_peft
@pytest.mark.parametrize("variant", LORAS)
def test_the_cached_gradient_of_adapters_is_plain_autograds(variant: str):
    prove(Dense(TINY, **LORAS[variant]))


@needs_peft
def test_the_cached_gradient_of_late_interaction_with_adapters_is_plain_autograds():
    prove(Late(TINY, dim=8, lora=Lora(rank=3, dropout=0.3)))


CROSSES = {
    "cross": {},
    "strong dropout": {"dropout": 0.4, "truncate": "doc_only", "query_length": 3},
    "frozen, checkpointed": {"freeze": ("embeddings.position_embeddings",), "gradient_checkpointing": True},
}
LISTWISE = {"RankNet": RankNet(), "LambdaLoss": LambdaLoss(), "KL": KLDivergence()}


def pairs_for(ranker) -> Batch:
    """Every query with some documents, read together."""
    whose, which = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3]), torch.tensor([1, 5, 0, 2, 4, 6, 3, 4, 0, 1])
    lists, mask = torch.zeros(4, 3, dtype=torch.int64), torch.tensor([[True] * 3, [True, True, False]] * 2)
    lists[mask] = torch.arange(10)
    queries, docs = ranker.tokenize(QUERIES, "query").take(whose), ranker.tokenize(DOCS, "doc").take(which)
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        Texts(nothing, torch.zeros(5, dtype=torch.int64)), ranker.pairing(queries, docs), lists,
        torch.tensor([[3.0, 1.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.0, 2.0], [1.0, 0.0, 0.0]]) * mask, mask,
        nothing, nothing, torch.zeros(0), tuple(f"q{i}" for i in range(4)),
        tuple(f"d{i}" for i in which.tolist()), tuple(f"q{i}" for i in whose.tolist()),
    )  # fmt: skip


def prove_pairs(spec: Cross, terms: list[Term]) -> None:
    ranker = spec.load(dtype="float64", seed=5)
    checks = list(check_gradients(ranker, Objective(terms), pairs_for(ranker), seed=3))
    assert len(checks) == 5
    for check in checks:
        assert check.tolerance == 1e-12
        assert check.passed, check


@pytest.mark.parametrize("variant", CROSSES)
def test_the_cached_gradient_of_a_cross_encoder_is_plain_autograds(variant: str):
    terms = [Term(loss, "own", weight) for loss, weight in zip(LISTWISE.values(), (1.0, 0.3, 2.0))]
    prove_pairs(Cross(TINY, **({"length": 40} | CROSSES[variant])), terms)


@pytest.mark.parametrize("loss", LISTWISE)
def test_the_cached_gradient_of_every_listwise_loss_is_plain_autograds(loss: str):
    prove_pairs(Cross(TINY, length=40, dropout=0.3), [Term(LISTWISE[loss], "own")])


@needs_peft
def test_the_cached_gradient_of_a_cross_encoder_with_adapters_is_plain_autograds():
    prove_pairs(Cross(TINY, length=40, lora=Lora(rank=3, dropout=0.3)), [Term(RankNet(), "own")])


def gradients(ranker, batch: Batch, memory: Memory) -> dict[str, torch.Tensor]:
    ranker.train().zero_grad(set_to_none=True)
    Step(ranker, Objective(TERMS), memory=memory, seed=3)(batch, step=0)
    return {n: p.grad.clone() for n, p in ranker.named_parameters() if p.grad is not None}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    squares = sum(float((a[n] - b[n]).square().sum()) for n in a)
    return (squares / sum(float(g.square().sum()) for g in b.values())) ** 0.5


def test_recomputed_activations_draw_the_dropout_of_the_plain_model():
    batch = batch_for(Dense(TINY).load(dtype="float64"))
    plain = gradients(Dense(TINY, dropout=0.3).load(dtype="float64"), batch, Memory())
    recomputed = Dense(TINY, dropout=0.3, gradient_checkpointing=True).load(dtype="float64")
    for memory in (Memory(), Memory(tokens=40, graph_tokens=0), Memory(tokens=1, graph_tokens=60)):
        assert distance(gradients(recomputed, batch, memory), plain) <= 1e-12


def test_dropout_is_really_on():
    ranker = Dense(TINY).load(dtype="float64")
    batch = batch_for(ranker)
    assert distance(gradients(ranker, batch, Memory()), gradients(Dense(TINY, dropout=0.0).load(dtype="float64"), batch, Memory())) > 0.01  # fmt: skip  # noqa: E501


def test_frozen_parts_and_unused_heads_get_no_gradient():
    ranker = Dense(TINY, freeze=("embeddings", "layers.0"), projection=6).load(dtype="float64")
    found = gradients(ranker, batch_for(ranker), Memory(tokens=30, graph_tokens=0))
    trained = {name for name, p in ranker.named_parameters() if p.requires_grad}
    assert set(found) == trained
    assert not any("embeddings" in name or "layer.0." in name or "pooler" in name for name in found)


def test_reference_sees_each_query_through_its_own_mask():
    """The proof's keys differ between texts, so that it would notice masks that follow the micro-batch."""
    keys = (
        dropout_keys(("a", "b"), "doc", seed=3, step=0).tolist()
        + dropout_keys(("a",), "query", seed=3, step=0).tolist()
    )
    assert len(set(keys)) == 3
