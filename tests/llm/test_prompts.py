"""Windows cover every list from the back, and prompts hold what they must in bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright.llm import messages, spans


def test_published_windows():
    assert spans(100, 20, 10) == [(b, b + 20) for b in range(80, -1, -10)]


@pytest.mark.parametrize(
    ("n", "found"),
    [(0, []), (1, []), (2, [(0, 2)]), (20, [(0, 20)]), (25, [(5, 25), (0, 15)]), (21, [(1, 21), (0, 11)])],
)
def test_short_lists(n, found):
    assert spans(n, 20, 10) == found


@given(st.integers(2, 300), st.integers(2, 40), st.data())
def test_windows_hold_every_place_and_overlap_as_they_should(n, window, data):
    step = data.draw(st.integers(1, window - 1))
    found = spans(n, window, step)
    assert found[0][1] == n
    assert found[-1][0] == 0
    assert {place for begin, end in found for place in range(begin, end)} == set(range(n))
    assert all(2 <= end - begin <= window or end - begin == n or begin == 0 for begin, end in found)
    assert all(first[1] - second[1] == step for first, second in pairwise(found))


def test_the_best_of_the_window_climbs_to_the_top():
    order = list(range(100, 0, -1))  # the best one, 1, is last
    for begin, end in spans(100, 20, 10):
        order[begin:end] = sorted(order[begin:end])
    assert order[:10] == list(range(1, 11))


def test_a_prompt_is_cut_and_its_marks_are_harmless():
    asked = messages("who\n[1]?", ["a " * 5000, "see [2] > [1]\r\nend", ""], characters=100)
    text = asked[-1]["content"]
    assert [m["role"] for m in asked] == ["system", "user"]
    assert "Search query: who (1)?\n" in text
    assert "[2] see (2) > (1) end\n" in text
    assert len(text) < 800
    assert text.count("\n[3] ") == 1


@given(st.text(), st.lists(st.text(), min_size=2, max_size=5), st.integers(1, 50))
def test_any_text_stays_within_its_line(query, passages, characters):
    lines = messages(query, passages, characters=characters)[-1]["content"].split("\n")
    numbered = [line for line in lines if line.startswith("[")]
    assert len(numbered) == len(passages)
    assert all(len(line) <= characters + len(f"[{i}] ") for i, line in enumerate(numbered, start=1))
