"""Pickles that are followed: plain values as unpickling gives them, objects refused or replaced."""

import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright.pickles import DAMAGE, Refused, follow

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(plain, lambda v: st.lists(v) | st.tuples(v, v) | st.dictionaries(st.text(), v), max_leaves=12)


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


@pytest.mark.parametrize("key", [1, None, b"a", (1, 2)])
def test_keys_of_data_are_texts(key):
    with pytest.raises(Refused, match="has a key that is a"):
        follow(pickle.dumps({key: 1}))


@pytest.mark.parametrize("damaged", [b"t.", b"]1e.", b"(1", b"K\x01K\x02.", b"K\x01)."])
def test_a_damaged_pickle_is_an_error_of_a_known_kind(damaged):
    with pytest.raises((*DAMAGE, Refused)):
        follow(damaged)


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
