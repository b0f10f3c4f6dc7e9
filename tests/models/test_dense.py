"""Dense as a specification: what it refuses, what it says then, and that it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rankwright.errors import RecipeError
from rankwright.models import Dense, Lora
from rankwright.models.dense import check_template


def test_defaults_are_left_to_the_folder():
    spec = Dense("some/model")
    assert (spec.pooling, spec.similarity, spec.query_length, spec.template) == (None, None, None, None)
    assert hash(spec) == hash(Dense("some/model"))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"backbone": ""}, "backbone is empty"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"similarity": "euclidean"}, "similarity is 'euclidean'"),
        ({"query_length": 2}, "query_length is 2"),
        ({"doc_length": 0}, "doc_length is 0"),
        ({"dims": 0}, "dims is 0"),
        ({"projection": -1}, "projection is -1"),
        ({"projection": 8, "dims": 16}, "dims 16 is more than the projection's 8"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"template": "{title}"}, "cannot be filled in"),
        ({"template": "{text} {text}"}, "cannot be filled in"),
        ({"template": "{text.__class__}"}, "cannot be filled in"),
        ({"template": "{text!r}"}, "cannot be filled in"),
        ({"template": "{text"}, "template"),
    ],
)
def test_wrong_fields_are_refused_with_a_fix(fields, what):
    with pytest.raises(RecipeError, match=r".") as caught:
        Dense(**({"backbone": "some/model"} | fields))
    assert what in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("fields", [{"rank": 0}, {"alpha": 0.0}, {"dropout": -0.1}])
def test_wrong_lora_is_refused(fields):
    with pytest.raises(RecipeError):
        Lora(**fields)


def test_lists_from_a_recipe_become_tuples():
    assert Dense("m", freeze=["embeddings"]).freeze == ("embeddings",)  # type: ignore[arg-type]
    assert Lora(targets=["query"]).targets == ("query",)  # type: ignore[arg-type]


def test_template_parts():
    assert check_template("{title}. {text}") == [("", "title"), (". ", "text")]


def test_importing_the_specification_imports_no_torch():
    code = (
        "import sys, rankwright.models as m; m.Dense('x'); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
