"""The specification of a late-interaction retriever: checked when built, light to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rankwright.errors import RecipeError
from rankwright.models import Late, Lora


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": ""}, {"dim": 0}, {"query_length": 3}, {"doc_length": 1}, {"dropout": 1.0}, {"template": "{body}"},
        {"query_marker": " "}, {"doc_marker": "\t"}, {"query_expansion": False, "attend_to_expansion": True},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_fix(fields):
    with pytest.raises(RecipeError) as caught:
        Late(**({"backbone": "x"} | fields))
    assert caught.value.fix


def test_lists_become_tuples_and_training_choices_go_on():
    spec = Late("x", skiplist=["."], freeze=["embeddings"], dim=8, lora=Lora(), dropout=0.2, query_length=9)
    assert (spec.skiplist, spec.freeze) == ((".",), ("embeddings",))
    assert spec.started_from("y") == Late("y", freeze=("embeddings",), lora=Lora(), dropout=0.2)


def test_naming_one_imports_no_torch():
    code = "import sys; from rankwright.models import Late; Late('x'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
