"""What a language model writes as an order: read, counted, repaired."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright.data.permutations import read_permutation


@pytest.mark.parametrize(
    ("text", "order", "counts", "strict"),
    [
        ("[2] > [3] > [1]", (1, 2, 0), (3, 0, 0), True),
        (" 2>3 >1 ", (1, 2, 0), (3, 0, 0), True),
        ("[2] > [2] > [1]", (1, 0, 2), (2, 1, 0), False),
        ("[9] > [0] > [3]", (2, 0, 1), (1, 0, 2), False),
        ("Here are the 3 passages: [2] > [3] > [1].", (1, 2, 0), (3, 0, 0), False),
        ("2, 3 and 1", (1, 2, 0), (3, 0, 0), False),
        ("<think>[1] > [2]? No.</think>\n[3] > [2] > [1]", (2, 1, 0), (3, 0, 0), True),
        ("I cannot rank these.", (0, 1, 2), (0, 0, 0), False),
        ("", (0, 1, 2), (0, 0, 0), False),
        ("[" + "9" * 5000 + "] > [2]", (1, 0, 2), (1, 0, 0), False),
        ("version 1.2 of gpt4", (0, 1, 2), (0, 0, 0), False),
    ],
)
def test_answers(text, order, counts, strict):
    found = read_permutation(text, 3)
    assert found.order == order
    assert (found.named, found.repeated, found.foreign) == counts
    assert found.strict == strict
    assert found.missing == 3 - found.named


@given(st.text() | st.text(alphabet="[] >0123456789\n"), st.integers(0, 40))
def test_any_text_gives_each_place_once(text, n):
    found = read_permutation(text, n)
    assert sorted(found.order) == list(range(n))
    assert 0 <= found.named <= n
    assert not found.strict or found.complete


@given(st.permutations(range(20)))
def test_a_permutation_comes_back(order):
    found = read_permutation(" > ".join(f"[{i + 1}]" for i in order), 20)
    assert found.order == tuple(order)
    assert found.strict
