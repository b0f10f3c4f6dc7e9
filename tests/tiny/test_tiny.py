"""The tiny model and data: small, consistent, and what their script makes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

HERE = Path(__file__).parent


def test_the_model_is_under_150_kilobytes():
    assert sum(path.stat().st_size for path in (HERE / "model").rglob("*") if path.is_file()) < 150_000


def test_the_data_fits_together():
    docs = {row["_id"] for row in map(json.loads, (HERE / "data/corpus.jsonl").read_text().splitlines())}
    queries = {row["_id"] for row in map(json.loads, (HERE / "data/queries.jsonl").read_text().splitlines())}
    assert (len(docs), len(queries)) == (20, 16)
    for split in ("train", "test"):
        rows = [line.split("\t") for line in (HERE / f"data/qrels/{split}.tsv").read_text().splitlines()[1:]]
        assert len({query for query, _, _ in rows}) == 8
        assert {query for query, _, _ in rows} <= queries
        assert {doc for _, doc, _ in rows} <= docs
        assert {grade for _, _, grade in rows} == {"0", "1", "2"}


def test_the_script_makes_the_same_data_and_weights(tmp_path):
    script = runpy.run_path(str(HERE / "make.py"))
    script["write_data"](tmp_path / "data")
    script["write_model"](tmp_path / "model")
    for name in ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"]:
        assert (tmp_path / "data" / name).read_bytes() == (HERE / "data" / name).read_bytes()
    for name in ["model.safetensors", "tokenizer.json"]:
        assert (tmp_path / "model" / name).read_bytes() == (HERE / "model" / name).read_bytes()
