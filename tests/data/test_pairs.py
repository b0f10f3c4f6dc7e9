"""Pairs by margin: against a dictionary reference of the bins, and the distribution of what is drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.data import HardMargin, MarginBins
from rankwright.errors import DataError, RecipeError
from rankwright.types import Candidates

_SCORES = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=14)
_EPOCHS = 1500


def _candidates(targets: list[float], query: str = "q") -> Candidates:
    return Candidates(query, [f"d{i}" for i in range(len(targets))], targets)


def _qrels(tmp_path: Path, *docs: str) -> str:
    path = tmp_path / "relevant.tsv"
    path.write_text("".join(f"q\t{doc}\t1\n" for doc in docs) + "q\td99\t0\nother\td1\t1\n")
    return str(path)


def _reference(targets: list[float], positives: set[int], bins: int) -> dict[tuple[int, int], float]:
    """(positive, negative) -> probability, with plain lists: the bins that matchmaker's digitize gives."""
    pairs = [(p, n) for p in sorted(positives) for n in range(len(targets)) if n not in positives]
    margins = [targets[p] - targets[n] for p, n in pairs]
    low, step = min(margins), (max(margins) - min(margins)) / bins
    filled: dict[int, list[tuple[int, int]]] = {}
    for pair, margin in zip(pairs, margins):
        place = int(np.digitize(margin, np.arange(low, max(margins), step))) - 1 if step else 0
        filled.setdefault(place, []).append(pair)
    return {pair: 1 / len(filled) / len(held) for held in filled.values() for pair in held}


def _drawn(group, candidates: Candidates, seed: int = 0) -> Counter[tuple[int, int]]:
    made = (group.choose(candidates, seed, epoch) for epoch in range(_EPOCHS))
    return Counter((int(e.docs[0][1:]), int(e.docs[1][1:])) for e in made)


def _fits(counts: Counter[tuple[int, int]], expected: dict[tuple[int, int], float]) -> None:
    assert set(counts) <= set(expected)
    for pair, chance in expected.items():
        sigma = (_EPOCHS * chance * (1 - chance)) ** 0.5
        assert abs(counts[pair] - _EPOCHS * chance) <= 5 * sigma + 1e-9, (pair, counts[pair], chance)


@settings(max_examples=200, deadline=None)
@given(targets=_SCORES, bins=st.integers(1, 12), seed=st.integers(0, 99), epoch=st.integers(0, 9))
@pytest.mark.parametrize("kind", [MarginBins, HardMargin])
def test_a_pair_has_the_teachers_scores_and_is_pure(kind, targets, bins, seed, epoch) -> None:
    group = MarginBins(bins) if kind is MarginBins else HardMargin(3.0)
    example = group.choose(_candidates(targets), seed, epoch)
    group.choose(_candidates(targets), seed + 1, epoch)
    assert group.choose(_candidates(targets), seed, epoch) == example
    assert example.targets == [targets[int(doc[1:])] for doc in example.docs]
    assert example.targets[0] == max(targets)
    if len(set(targets)) == 1:
        assert len(example.docs) == 1  # no pair: one document
    else:
        assert len(set(example.docs)) == 2
        assert example.targets[1] < max(targets)


@pytest.mark.parametrize("bins", [1, 3, 10])
@pytest.mark.parametrize(
    ("targets", "positives"),
    [
        ([9, 8.9, 8.8, 8.7, 8.6, 1, 0, -5], {0}),
        ([2.0, 9, 8.5, 1, 0, -3.25], {0, 3}),  # negative margins: the teacher disagrees with the judgement
        ([5, 4, 4, 4], {0}),  # all margins equal
        ([1e-3, 0, 1e-300], {0}),
    ],
)
def test_bins_are_even_and_pairs_within_them(targets, positives, bins, tmp_path) -> None:
    relevant = _qrels(tmp_path, *(f"d{i}" for i in positives))
    _fits(_drawn(MarginBins(bins, relevant), _candidates(targets)), _reference(targets, positives, bins))


def test_a_rare_margin_is_drawn_as_often_as_a_frequent_one() -> None:
    counts = _drawn(MarginBins(2), _candidates([10.0] + [9.0] * 50 + [0.0]))
    assert abs(counts[0, 51] - _EPOCHS / 2) < 5 * (_EPOCHS / 4) ** 0.5  # of 51 pairs half of the draws


def test_the_largest_margin_lies_in_the_last_bin() -> None:
    rng = np.random.default_rng(0)
    from rankwright.data.pairs import _bins

    for _ in range(2000):
        margins = rng.normal(0, 10 ** rng.uniform(-30, 30), rng.integers(1, 30))
        places = _bins(margins, 10)
        assert places.min() >= 0
        assert places.max() == 9 == places[margins.argmax()]
        if len(set(margins.tolist())) > 1:
            edges = np.arange(margins.min(), margins.max(), (margins.max() - margins.min()) / 10)
            assert (places == np.minimum(np.digitize(margins, edges) - 1, 9)).all()


def test_hard_margins_are_even_up_to_the_cutoff(tmp_path) -> None:
    targets = [9.0, 8, 5, 3, 2.9, -4]
    _fits(_drawn(HardMargin(6), _candidates(targets)), {(0, 1): 1 / 3, (0, 2): 1 / 3, (0, 3): 1 / 3})
    assert set(_drawn(HardMargin(0.5), _candidates(targets))) == {(0, 1)}  # none is hard: the hardest
    counts = _drawn(HardMargin(-1.0, _qrels(tmp_path, "d3")), _candidates(targets))
    _fits(counts, {(3, 0): 1 / 3, (3, 1): 1 / 3, (3, 2): 1 / 3})


def test_queries_without_a_known_positive_take_the_highest(tmp_path) -> None:
    group = MarginBins(10, _qrels(tmp_path, "d0"))
    assert set(_drawn(group, _candidates([1.0, 3, 0], query="unknown"))) == {(1, 0), (1, 2)}
    assert group.choose(_candidates([1.0, 3, 0]), 0, 0).docs[0] == "d0"
    assert group.files() == (group.relevant,)
    assert MarginBins().files() == HardMargin().files() == ()


def test_wrong_arguments_and_files_are_refused() -> None:
    for wrong in (0, 2.5, True):
        with pytest.raises(RecipeError, match="give a whole number of 1 or more"):
            MarginBins(wrong)  # type: ignore[arg-type]
    for wrong in (float("nan"), float("inf"), "6"):
        with pytest.raises(RecipeError, match="give a finite number"):
            HardMargin(wrong)  # type: ignore[arg-type]
    group = MarginBins(relevant="nowhere.tsv")  # building one touches no file
    with pytest.raises(DataError, match=r"nowhere\.tsv"):
        group.choose(_candidates([1.0, 0]), 0, 0)


def test_a_file_of_relevant_documents_about_something_else_is_refused(tmp_path: Path) -> None:
    """It would be ignored, query by query: the highest score would stand in for every judgement."""
    path = tmp_path / "relevant.tsv"
    path.write_text("q1\td1\t1\nq2\td2\t0\n")
    group = MarginBins(relevant=str(path))
    group.check(["q0", "q1"], ["d0", "d1"])
    for queries, docs, what in ((["w:q1"], ["d1"], "queries"), (["q1"], ["w:d1", "d2"], "documents")):
        with pytest.raises(DataError, match=f"none of the training {what}"):
            group.check(queries, docs)
    MarginBins().check(["q1"], ["d1"])
