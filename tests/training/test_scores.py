"""The store of teacher scores: found again by content, whole after a kill, never shared between writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.training import scores
from rankwright.training.scores import ScoreStore, pair_keys, text_keys
from rankwright.types import Texts


def keys(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, size=(n, 2), dtype=np.uint64)


def test_what_was_added_is_found_in_this_session_and_the_next(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scores, "_RECENT", 7)
    all_keys, values = keys(40), np.random.default_rng(1).normal(size=40)
    with ScoreStore.open(tmp_path) as store:
        for begin in range(0, 30, 5):
            store.add(all_keys[begin : begin + 5], values[begin : begin + 5])
            assert np.array_equal(store.get(all_keys[: begin + 5]), values[: begin + 5])
    with ScoreStore.open(tmp_path) as store:
        assert len(store) == 30
        found = store.get(all_keys[::-1])
        assert np.array_equal(found[10:], values[:30][::-1])
        assert np.isnan(found[:10]).all()


def test_the_first_score_of_a_pair_stays(tmp_path: Path):
    one = keys(1)
    for value in (1.0, 2.0):
        with ScoreStore.open(tmp_path) as store:
            store.add(one, np.array([value]))
            assert store.get(one).tolist() == [1.0]
    with ScoreStore.open(tmp_path) as store:
        assert store.get(one).tolist() == [1.0]


def test_a_torn_end_and_a_damaged_block_are_scored_again(tmp_path: Path, capsys):
    for seed in range(3):
        with ScoreStore.open(tmp_path) as store:
            store.add(keys(4, seed), np.full(4, float(seed)))
    (path,) = tmp_path.glob("*.jsonl")
    first, second, third = path.read_bytes().splitlines(keepends=True)
    place = second.index(b'"data": "') + 20
    changed = bytes([second[place] ^ 1])
    path.write_bytes(first + second[:place] + changed + second[place + 1 :] + third[:-9])
    with ScoreStore.open(tmp_path) as store:
        assert store.get(keys(4, 0)).tolist() == [0.0] * 4
        assert np.isnan(store.get(np.concatenate([keys(4, 1), keys(4, 2)]))).all()
        store.add(keys(4, 2), np.full(4, 2.0))
    assert "1 damaged blocks" in capsys.readouterr().err
    with ScoreStore.open(tmp_path) as store:
        assert store.get(keys(4, 2)).tolist() == [2.0] * 4


def test_two_writers_have_two_files_and_processes_read_their_own_and_a_single_ones(tmp_path: Path):
    with ScoreStore.open(tmp_path) as one, ScoreStore.open(tmp_path) as two:
        one.add(keys(3, 0), np.zeros(3))
        two.add(keys(3, 1), np.ones(3))
    for rank in (0, 1):
        with ScoreStore.open(tmp_path, rank=rank, world=2) as store:
            store.add(keys(3, 2 + rank), np.full(3, 2.0 + rank))
    for rank in (0, 1):
        with ScoreStore.open(tmp_path, rank=rank, world=2) as store:
            known = [not np.isnan(store.get(keys(3, seed))).any() for seed in range(4)]
            assert known == [True, True, rank == 0, rank == 1]


def test_keys_tell_ids_contents_and_sides_apart():
    texts = Texts(torch.tensor([5, 6, 7, 5, 6, 7, 5, 6]), torch.tensor([0, 3, 6, 8]))
    made = text_keys(["a", "b", "a"], texts)
    assert len({tuple(key) for key in made.tolist()}) == 3
    assert np.array_equal(made[:1], text_keys(["a"], texts.take(torch.tensor([0]))))
    pairs = pair_keys(made, made)
    assert len({tuple(key) for key in pairs.reshape(-1, 2).tolist()}) == 9


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20))
def test_pair_keys_do_not_depend_on_the_company(seed: int, q: int, m: int):
    queries, docs = keys(q, seed), keys(m, seed + 1)
    whole = pair_keys(queries, docs)
    assert np.array_equal(pair_keys(queries[-1:], docs[-1:])[0, 0], whole[-1, -1])


@pytest.mark.parametrize(
    "record", [{"pairs": 1}, {"pairs": 1, "xxh3": "0", "data": "!"}, {"pairs": 2, "xxh3": 3, "data": ""}]
)
def test_records_of_somebody_else_are_no_scores(tmp_path: Path, record: dict):
    from rankwright import storage

    storage.append_line(tmp_path / "0-of-1.0.jsonl", record)
    with ScoreStore.open(tmp_path) as store:
        assert len(store) == 0
        assert store.damaged == 1
