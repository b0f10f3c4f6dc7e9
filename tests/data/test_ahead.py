"""Work by threads looks like work one by one: order, errors and how far it runs ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from rankwright.data import _ahead
from rankwright.data._ahead import ahead


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_order_and_look_ahead(threads: int | None) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(40):
            taken += 1
            yield i

    def slow(i: int) -> int:
        time.sleep(0.004 * (i % 3 == 0))
        return i * i

    for done, (item, made) in enumerate(ahead(slow, items(), threads=threads)):
        assert (item, made) == (done, done * done)
        assert taken <= done + _ahead._PER_THREAD * (threads or _ahead._MOST_THREADS)
    assert taken == 40
    assert list(ahead(slow, [])) == []


@pytest.mark.parametrize("where", ["items", "work"])
def test_an_error_comes_in_its_place(where: str) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        if where == "items":
            raise ValueError("5")
        yield from range(5, 9)

    def work(i: int) -> int:
        if i == 5:
            raise ValueError("5")
        return i

    seen = []
    with pytest.raises(ValueError, match="5"):
        seen.extend(item for item, _ in ahead(work, items(), threads=3))
    assert seen == [0, 1, 2, 3, 4]
