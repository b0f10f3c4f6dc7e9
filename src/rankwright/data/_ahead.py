"""Work on the items of a stream by a few threads, in order and only a little ahead of whoever asks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_MOST_THREADS = 4
_PER_THREAD = 2  # items under way, so that no thread waits and memory stays flat


def ahead(
    work: Callable[[Item], Made], items: Iterable[Item], *, threads: int | None = None
) -> Iterator[tuple[Item, Made]]:
    """(item, work(item)) in the order of the items, as if they were worked on one after the other.

    What `items` or `work` raises is raised once the items before it have been handed out.

    Args:
        threads: None: one a core, four at most.
    """
    threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
    items, under_way, failure = iter(items), deque[tuple[Item, Future[Made]]](), None
    with ThreadPoolExecutor(threads, "ahead") as pool:
        while True:
            while failure is None and len(under_way) < _PER_THREAD * threads:
                try:
                    item = next(items)
                except BaseException as error:  # the end of the stream included
                    failure = error
                else:
                    under_way.append((item, pool.submit(work, item)))
            if not under_way:
                break
            item, made = under_way.popleft()
            yield item, made.result()
    if failure is not None and not isinstance(failure, StopIteration):
        raise failure
