"""The specification of a cross-encoder: checked when built, light to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rankwright.errors import RecipeError
from rankwright.models import Cross, Lora


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": ""}, {"length": 7}, {"query_length": 0}, {"truncate": "both"}, {"dropout": 1.0},
        {"template": "{body}"}, {"head": "pooler"}, {"head": "yes_no", "prompt": "{document} {query}"},
        {"prompt": "{query} {document} {query}"}, {"answers": ["yes"]}, {"answers": ["no", "no"]},
        {"head": "classification", "answers": ["yes", "no"]},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_fix(fields):
    with pytest.raises(RecipeError) as caught:
        Cross(**({"backbone": "x"} | fields))
    assert caught.value.fix


def test_training_choices_go_on():
    spec = Cross("x", length=99, truncate="doc_only", freeze=["embeddings"], lora=Lora(), dropout=0.2)  # type: ignore[arg-type]
    assert spec.started_from("y") == Cross("y", freeze=("embeddings",), lora=Lora(), dropout=0.2)


def test_naming_one_imports_no_torch():
    code = "import sys; from rankwright.models import Cross; Cross('x'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
