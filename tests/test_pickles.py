"""Pickles that are followed: plain values as unpickling gives them, objects refused or replaced."""

import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright.pickles import Refused, follow

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text() | st.integers()
values = st.recursive(plain, lambda v: st.lists(v) | st.tuples(v, v) | st.dictionaries(keys, v), max_leaves=12)


def apart(value):
    """The same value with no list in two places, which a pickle would keep as one."""
    if isinstance(value, dict):
        return {key: apart(part) for key, part in value.items()}
    return type(value)(map(apart, value)) if isinstance(value, list | tuple) else value


@given(values, values, st.integers(3, 5))
def test_plain_values_come_back_as_unpickling_gives_them(first, second, protocol):
    stream = io.BytesIO(b"".join(pickle.dumps(apart(value), protocol) for value in (first, second)))
    assert [follow(stream), follow(stream)] == [first, second]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [{1, 2}, frozenset([1]), print, complex(1, 2), object()],
    ids=["set", "frozenset", "function", "number", "object"],
)
def test_objects_are_refused(value, protocol):
    with pytest.raises(Refused, match="has the opcode"):
        follow(pickle.dumps(value, protocol))


class Standing:
    """Stands for whatever is named."""

    def named(self, name):
        return name

    def called(self, what, arguments):
        return what, arguments

    def referred(self, stated):
        return "referred", stated


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_may_have_something_in_their_place(protocol):
    assert follow(pickle.dumps([complex(1, 2)], protocol), Standing()) == [
        ("builtins complex" if protocol == 4 else "__builtin__ complex", (1.0, 2.0))
    ]
