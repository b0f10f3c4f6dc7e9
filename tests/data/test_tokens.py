"""The token store: what the tokenizer made comes back, row by row, in as few bytes as the vocabulary allows."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright import storage
from rankwright.data import TokenStore
from rankwright.errors import ArtefactError, UsageError
from rankwright.types import Texts


def _texts(rows: list[list[int]]) -> Texts:
    values = torch.tensor([value for row in rows for value in row], dtype=torch.int64)
    return Texts(values, torch.tensor([0, *np.cumsum([len(row) for row in rows]).tolist()], dtype=torch.int64))


def _tokenize(texts: list[str]) -> Texts:
    return _texts([[int(word) for word in text.split()] for text in texts])


def _store(rows: list[list[int]], folder: Path, vocabulary: int = 1000) -> TokenStore:
    return TokenStore.build(
        folder, [" ".join(map(str, row)) for row in rows], _tokenize, key="k", vocabulary=vocabulary
    )


def _rows(texts: Texts) -> list[list[int]]:
    return [texts.values[a:b].tolist() for a, b in zip(texts.offsets[:-1], texts.offsets[1:])]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), vocabulary=st.sampled_from([2, 65535, 65536, 250_000]))
def test_rows_come_back(data: st.DataObject, vocabulary: int) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(0, vocabulary - 1), max_size=9), max_size=20))
    taken = data.draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=30)) if rows else []
    with tempfile.TemporaryDirectory() as folder:
        store = _store(rows, Path(folder) / "tokens", vocabulary)
        assert len(store) == len(rows)
        assert store.lengths.tolist() == [len(row) for row in rows]
        texts = store.take(np.array(taken, np.int64))
        assert texts.values.dtype == texts.offsets.dtype == torch.int64
        assert _rows(texts) == [rows[i] for i in taken]


def test_more_texts_than_one_chunk_keep_their_order(tmp_path: Path) -> None:
    rows = [[i % 997] * (i % 5) for i in range(2500)]
    store = _store(rows, tmp_path / "tokens")
    assert _rows(store.take(np.arange(2500))) == rows
    again = TokenStore.open(tmp_path / "tokens")
    assert again.key == "k"
    assert _rows(again.take(np.array([2499, 1024, 1023]))) == [rows[2499], rows[1024], rows[1023]]


@pytest.mark.parametrize(("vocabulary", "width"), [(65535, 2), (65536, 4)])
def test_two_bytes_a_token_where_they_suffice(vocabulary: int, width: int, tmp_path: Path) -> None:
    _store([[1, 2, 3]], tmp_path / "tokens", vocabulary)
    assert (tmp_path / "tokens" / "tokens.bin").stat().st_size == 3 * width


@pytest.mark.parametrize("token", [1000, 70_000, -1])
def test_a_token_outside_the_vocabulary_is_refused(token: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{token} is outside the vocabulary of 1000"):
        _store([[5], [3, token]], tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="made 1 rows of 2 texts"):
        TokenStore.build(tmp_path / "t", ["a", "b"], lambda texts: _texts([[1]]), key="", vocabulary=9)


def test_something_else_is_not_opened(tmp_path: Path) -> None:
    with storage.publish(tmp_path / "x", "model") as draft:
        storage.write_text(draft.file("a"), "a")
    with pytest.raises(ArtefactError, match="expected 'tokens'"):
        TokenStore.open(tmp_path / "x")


def test_letting_go_of_pages_changes_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[i % 7, i % 900] for i in range(9000)]
    store = _store(rows, tmp_path / "tokens")
    monkeypatch.setattr("rankwright.data._ragged._HELD", 3)
    order = np.random.default_rng(0).permutation(len(rows))
    before = store._rows.row(8999)
    parts = [store.take(part).values.tolist() for part in np.array_split(order, 50)]
    assert [value for part in parts for value in part] == [value for row in order.tolist() for value in rows[row]]
    assert before.tolist() == rows[8999]  # what was handed out before stays
    assert [store._rows.row(i).tolist() for i in range(20)] == rows[:20]


def test_reading_rows_holds_nothing_for_each_row_of_the_store(tmp_path: Path) -> None:
    count = 100_000
    TokenStore.build(tmp_path / "tokens", [""] * count, lambda texts: _texts([[1]] * len(texts)), key="k", vocabulary=9)
    TokenStore.open(tmp_path / "tokens").take(np.arange(8))  # what is made once
    tracemalloc.start()
    store = TokenStore.open(tmp_path / "tokens")
    store.take(np.arange(0, count, 1000))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < count  # bytes; the offsets alone are 8 a row
