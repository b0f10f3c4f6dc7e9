"""Packed names against the strings they stand for."""

from __future__ import annotations

from collections import UserList
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwright.evaluation import evaluate
from rankwright.names import Names, bytewise, picked, selected
from rankwright.types import Qrels, Run

NAMES = st.text(st.characters() | st.sampled_from("\n\0\udc80é漢𝔸ab1"), max_size=9)  # halves of surrogate pairs too


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


@settings(max_examples=200, deadline=None)
@given(st.lists(NAMES, max_size=12), st.lists(NAMES, max_size=5), st.randoms())
def test_names_are_their_strings(names, others, random):
    packed = Names.of(names)
    assert Names.of(packed) is packed
    again = Names.of_bytes(*packed.to_bytes())
    for made in (packed, again, Names.of(tuple(names)), Names.of(UserList(names))):
        assert list(made) == names == made[:]
        assert [made[i] for i in range(-len(names), len(names))] == names * 2
        for same in (names, tuple(names), packed):
            assert made == same
            assert same == made
        assert hash(made) == hash(tuple(names))
        assert made != [*names, "x"]
        assert made[1:3] == names[1:3]
    rows = np.array(random.choices(range(len(names)), k=6) if names else [], np.int64)
    chosen = [names[i] for i in rows]
    for form in (packed, again, tuple(names)):
        assert picked(form, rows) == chosen
        assert list(selected(form, rows)) == chosen
        places = bytewise(form, rows).tolist()
        assert [(a < b, a == b) for a, x in zip(places, rows) for b, y in zip(places, rows)] == [
            ((_bytes(names[x]), x) < (_bytes(names[y]), y), x == y) for x in rows for y in rows
        ]
    text, offsets = selected(packed, rows).to_bytes()
    assert [text[a:b].tobytes() for a, b in pairwise(offsets)] == list(map(_bytes, chosen))
    assert packed.find(names + others).tolist() == [names.index(x) if x in names else -1 for x in names + others]
    assert [names[i] for i in packed.sorting()] == sorted(names, key=_bytes)


def test_names_beyond_one_block_and_out_of_range(monkeypatch):
    monkeypatch.setattr("rankwright.names._AT_ONCE", 3)
    names = [f"n{i}" for i in range(10)]
    assert list(Names.of(UserList(names))) == names
    packed = Names.of(names)
    assert repr(packed) == "Names(['n0', 'n1', 'n2'] and 7 more)"
    for row in (10, -11):
        with pytest.raises(IndexError):
            packed[row]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["q1", "q2"]), st.dictionaries(NAMES, st.integers(0, 2), min_size=1), min_size=1),
    st.dictionaries(st.sampled_from(["q1", "q2"]), st.dictionaries(NAMES, st.integers(0, 3), min_size=1), min_size=2),
)
def test_a_run_is_measured_and_ranked_alike_packed_or_not(run, judged):
    plain, qrels = Run.from_dict(run), Qrels.from_dict(judged)
    packed = Run(plain.queries, Names.of(plain.docs), plain.offsets, plain.columns, plain.values)
    assert packed.to_dict() == plain.to_dict() == run
    assert packed.ranked(3).to_dict() == plain.ranked(3).to_dict()
    assert list(packed.ranked().to_dict()["q1"] if "q1" in run else []) == sorted(
        run.get("q1", {}), key=lambda doc: (run["q1"][doc], _bytes(doc)), reverse=True
    )
    everything = Names.of([f"other {i}" for i in range(5)] + list(plain.docs))  # a run that names a few of many
    wide = Run(plain.queries, everything, plain.offsets, plain.columns + np.int32(5), plain.values)
    assert wide.to_dict() == run
    measured = [evaluate(one, qrels, ["nDCG@3", "AP"]).per_query() for one in (plain, packed, wide)]
    assert measured[0] == measured[1] == measured[2]
