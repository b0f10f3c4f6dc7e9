"""Mixed parts: shares by weight and temperature, nothing twice in a batch, each part in its own random order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import Mixed, Part
from rankwright.errors import DataError, RecipeError

_SIZES = (60, 20, 5)
_PART = np.repeat(np.arange(3), _SIZES)
_QUERIES = [f"q{i}" for i in range(len(_PART))]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder: Path = tmp_path_factory.mktemp("parts")
    paths = [folder / f"{part}.tsv" for part in range(3)]
    for part, path in enumerate(paths):
        path.write_text("".join(f"{_QUERIES[row]}\n" for row in np.flatnonzero(part == _PART)))
    return list(map(str, paths))


def _mixed(files: list[str], weights: tuple[float | None, ...] = (None, None, None), *, size: int = 8, **more) -> Mixed:
    return Mixed(tuple(Part(path, weight) for path, weight in zip(files, weights)), size, **more)


def _plan(spec: Mixed, lists: list[list[int]] | None = None, *, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    made = lists or [[i] for i in range(len(_QUERIES))]
    plan = spec.plan(_QUERIES, made.__getitem__, seed=seed, epoch=epoch)
    return [plan.batch(i).tolist() for i in range(len(plan))]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 12), homogeneous=st.booleans(), repeats=st.booleans(), seed=st.integers(0, 99),
    epoch=st.integers(0, 9), weight=st.floats(0.01, 100),
    lists=st.lists(st.lists(st.integers(0, 90), max_size=3, unique=True), min_size=85, max_size=85),
)  # fmt: skip
def test_no_query_and_no_document_twice(files, size, homogeneous, repeats, seed, epoch, weight, lists) -> None:
    spec = _mixed(files, (1.0, weight, None), size=size, homogeneous=homogeneous, repeats=repeats)
    batches = _plan(spec, lists, seed=seed, epoch=epoch)
    assert _plan(spec, lists, seed=seed, epoch=epoch) == batches
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len(set(batch)) == len(batch)
        assert not homogeneous or len({_PART[row] for row in batch}) == 1
        docs = [doc for row in batch for doc in lists[row]]
        assert repeats or len(docs) == len(set(docs))
    if homogeneous:
        assert len(batches) == -(-85 // size)
    else:
        assert sum(map(len, batches)) == 85


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize(
    ("weights", "temperature", "expected"),
    [
        ((None, None, None), 1.0, np.array(_SIZES) / 85),
        ((None, None, None), 2.0, np.sqrt(_SIZES) / np.sqrt(_SIZES).sum()),
        ((3.0, 1.0, 4.0), 1.0, np.array([3, 1, 4]) / 8),
        ((3.0, 1.0, 4.0), 1e6, np.full(3, 1 / 3)),
        ((3.0, 1.0, 4.0), 1e-3, np.array([0, 0, 1.0])),
    ],
)
def test_shares_go_with_weight_and_temperature(files, homogeneous, weights, temperature, expected) -> None:
    spec = _mixed(files, weights, size=1 if homogeneous else 5, homogeneous=homogeneous, temperature=temperature)
    parts = Counter(int(_PART[row]) for epoch in range(20) for batch in _plan(spec, epoch=epoch) for row in batch)
    draws = sum(parts.values())
    for part, share in enumerate(expected):
        assert abs(parts[part] / draws - share) < 5 * (share * (1 - share) / draws) ** 0.5 + 1e-9


@pytest.mark.parametrize("homogeneous", [True, False])
def test_a_part_begins_again_when_all_of_it_was_drawn(files, homogeneous: bool) -> None:
    spec = _mixed(files, (1.0, 1.0, 1.0), size=1, homogeneous=homogeneous)
    for epoch in range(3):
        counts = Counter(row for batch in _plan(spec, epoch=epoch) for row in batch)
        for part in range(3):
            of_part = [counts[row] for row in np.flatnonzero(part == _PART)]
            assert max(of_part) - min(of_part) <= 1  # no query again before every other one


def test_drop_last_takes_no_share_from_a_part(files) -> None:
    spec = _mixed(files[:2], (1.0, 1.0), size=8, drop_last=True)
    batches = [batch for epoch in range(60) for batch in _plan(spec, epoch=epoch)]
    assert {len(batch) for batch in batches} == {8}
    share = np.mean([_PART[batch[0]] for batch in batches])
    assert abs(share - 0.5) < 5 * 0.5 / len(batches) ** 0.5
    with pytest.raises(RecipeError, match=r"5 queries of .* fill no batch of 8"):
        _plan(_mixed(files, (1.0, 1.0, 1e6), drop_last=True))


def test_what_files_name_is_checked(files, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other.tsv"
    other.write_text("q3\nnot trained on\n")
    with pytest.raises(DataError, match="'q3' is also in"):
        _plan(Mixed((Part(files[0]), Part(str(other)))))
    other.write_text("unknown\n")
    with pytest.raises(DataError, match="names none of the training queries"):
        _plan(Mixed((Part(files[0]), Part(str(other)))))
    _plan(Mixed((Part(files[0]),)))
    assert "25 of 85 queries are in no part" in capsys.readouterr().err
    assert Mixed((Part("nowhere"), Part("b"))).files() == ("nowhere", "b")  # building one touches no file


def test_arguments_are_checked() -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf"), True):
        with pytest.raises(RecipeError, match="give a number above 0"):
            Part("a", wrong)
        with pytest.raises(RecipeError, match="give a number above 0"):
            Mixed((Part("a"),), temperature=wrong)
    with pytest.raises(RecipeError, match="parts is empty"):
        Mixed(())
