"""What an objective may say: terms that are refused, Matryoshka against sentence-transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwright import recipe
from rankwright.errors import RecipeError
from rankwright.losses import GOR, Flops, InfoNCE
from rankwright.plan import Stage
from rankwright.training import Objective, Step, Term
from rankwright.training.widths import scores_at
from rankwright.types import Reps

_spec = importlib.util.spec_from_file_location("training_toys", Path(__file__).with_name("toys.py"))
assert _spec
assert _spec.loader
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "either a loss or a regulariser"),
        ({"loss": InfoNCE(), "regulariser": Flops()}, "either a loss or a regulariser"),
        ({"regulariser": Flops(), "dims": (2,)}, "takes no dims"),
        ({"loss": InfoNCE(), "dims": (4, 0)}, "different numbers of 1 or more"),
        ({"loss": InfoNCE(), "dims": (4, 4)}, "different numbers of 1 or more"),
        ({"loss": InfoNCE(), "dims": (4, 2), "dims_weights": (1.0,)}, "1 dims_weights for 2 dims"),
        ({"loss": InfoNCE(), "dims": (4,), "dims_weights": (0.0,)}, "above 0"),
    ],
)
def test_terms_that_say_nothing_sensible(arguments, match: str):
    with pytest.raises(RecipeError, match=match):
        Term(**arguments)


def test_a_recipe_names_them_all(tmp_path: Path):
    text = """
data: [{Judged: {dataset: d}}]
group: OneRelevant
objective:
  - {loss: InfoNCE, dims: [8, 4], dims_weights: [1, 0.5]}
  - {regulariser: {Flops: {query_weight: 0.1}}, weight: 0.01}
  - {regulariser: GOR}
"""
    stage = recipe.loads(text, Stage)
    assert stage.objective == (
        Term(InfoNCE(), dims=(8, 4), dims_weights=(1.0, 0.5)), Term(weight=0.01, regulariser=Flops(0.1)),
        Term(regulariser=GOR()),
    )  # fmt: skip
    assert recipe.loads(recipe.dump(stage), Stage) == stage


def test_vectors_that_cannot_be_cut_are_refused():
    batch, ranker = toys.make_batch(np.random.default_rng(1)), toys.Toy(late=False)
    with pytest.raises(RecipeError, match="dims holds 7, the vectors have 6"):
        Step(ranker, Objective([Term(InfoNCE(), dims=(7,))]))(batch, step=0)
    ranker.normalised = None
    with pytest.raises(RecipeError, match="cannot be cut"):
        Step(ranker, Objective([Term(InfoNCE(), dims=(2,))]))(batch, step=0)


def test_sentence_transformers_matryoshka_is_the_same_number():
    """Its MatryoshkaLoss cuts and normalises what the model returns; in-batch softmax of cosines times 20."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    rng = np.random.default_rng(2)
    queries, docs = (torch.tensor(rng.normal(size=(5, 8))) for _ in range(2))

    class Lookup(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features["vectors"]}

        def get_embedding_dimension(self):
            return 8

    model = Lookup()
    inner = losses.MultipleNegativesRankingLoss(model)
    oracle = losses.MatryoshkaLoss(model, inner, matryoshka_dims=[8, 4, 2], matryoshka_weights=[1, 0.5, 2])
    expected = oracle([{"vectors": queries}, {"vectors": docs}], None)

    class Unit:
        normalised = True

        def compare(self, queries, docs):
            return queries.values[:, 0] @ docs.values[:, 0].T

    ones = torch.ones(5, 1, dtype=torch.bool)
    unit = [Reps(torch.nn.functional.normalize(x, dim=-1)[:, None], ones) for x in (queries, docs)]
    term = Term(InfoNCE(0.05), dims=(8, 4, 2), dims_weights=(1.0, 0.5, 2.0))
    scores = scores_at(Unit(), *unit, Objective([term]).widths)
    ours = sum(
        factor * InfoNCE(0.05)(scores[width], torch.eye(5, dtype=torch.float64), torch.ones(5, 5) > 0).mean()
        for width, factor in term.widths.items()
    )
    assert float(ours) == pytest.approx(float(expected), rel=1e-10)
