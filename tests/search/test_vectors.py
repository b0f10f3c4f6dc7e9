"""Sharded vectors: blocks, rows, gates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.errors import ArtefactError, NonFiniteError, UsageError
from rankwright.search import Exact, Vectors
from rankwright.search import vectors as module

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(1, 9), st.lists(st.integers(0, 10**6)))
def test_blocks_and_take_do_not_depend_on_shards(sizes, rows, wanted):
    total = sum(sizes)
    whole = np.arange(total * 3, dtype=np.float32).reshape(total, 3)
    vectors = Vectors([f"d{i}" for i in range(total)], np.split(whole, np.cumsum(sizes)[:-1]))
    seen = list(vectors.blocks(rows))
    assert all(len(block) <= rows for _, block in seen)
    assert [start for start, _ in seen] == [int(block[0, 0]) // 3 for _, block in seen]
    assert np.array_equal(np.concatenate([np.empty((0, 3), np.float32), *(block for _, block in seen)]), whole)
    picked = np.array([w % total for w in wanted] if total else [], np.int64)
    assert np.array_equal(vectors.take(picked), whole[picked])


def test_shapes_and_types_are_checked():
    ids = [f"d{i}" for i in range(20)]
    with pytest.raises(UsageError, match="20 ids but 19 vectors"):
        Vectors(ids, [ROWS[:19]])
    with pytest.raises(UsageError, match="float64"):
        Vectors(ids, [ROWS.astype(np.float64)])
    with pytest.raises(UsageError, match="float32 and float16"):
        Vectors(ids, [ROWS[:10], ROWS[10:].astype(np.float16)])
    with pytest.raises(UsageError, match=r"expected float32 or float16 \[rows, 3\]"):
        Vectors(ids, [ROWS[:10], ROWS[10:, :2]])


def test_a_bad_row_is_named():
    values = ROWS.copy()
    values[13, 1] = np.inf
    values[15, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"'d13', shard:row 1:3, holds NaN or infinity \(1 more"):
        Vectors([f"d{i}" for i in range(20)], [values[:10], values[10:]])


def test_the_largest_norm_and_the_fingerprint_follow_the_content():
    ids = [f"d{i}" for i in range(20)]
    whole, cut = Vectors(ids, [ROWS]), Vectors(ids, [ROWS[:7], ROWS[7:]])
    assert whole.max_norm == cut.max_norm == pytest.approx(np.linalg.norm(ROWS.astype(np.float64), axis=1).max())
    assert whole.fingerprint == cut.fingerprint != Vectors(ids, [ROWS + 1]).fingerprint
    assert whole.fingerprint != Vectors(ids[::-1], [ROWS]).fingerprint


def test_a_folder_without_vectors_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="not a finished artefact"):
        Vectors.open(tmp_path)


def test_int8_vectors_are_searched_as_stored(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300, 24)).astype(np.float32) * np.logspace(-3, 3, 300, dtype=np.float32)[:, None]
    values[7] = 0
    vectors = Vectors([f"d{i}" for i in range(300)], [values[:90], values[90:]])
    monkeypatch.setattr(module, "_QUANTISED_ROWS", 128)
    made = vectors.quantised(tmp_path / "int8")
    decoded = made.take(np.arange(300))
    assert decoded.dtype == np.float32
    assert (np.abs(decoded - values) <= np.abs(values).max(axis=1, keepdims=True) / 253.9).all()
    assert np.array_equal(np.concatenate([block for _, block in made.blocks(50)]), decoded)
    assert made.max_norm == pytest.approx(np.linalg.norm(decoded.astype(np.float64), axis=1).max())
    queries, names = rng.standard_normal((6, 24)).astype(np.float32), [f"q{i}" for i in range(6)]
    stored = Exact(made).search(queries, names, k=20).to_dict()
    assert stored == Exact(Vectors(vectors.ids, [decoded])).search(queries, names, k=20).to_dict()
    assert made.fingerprint == Vectors.open(tmp_path / "int8").fingerprint != vectors.fingerprint
    size = sum(path.stat().st_size for path in (tmp_path / "int8").glob("vectors-*"))
    assert size - 3 * 128 == values.nbytes / 4  # a header a file
