"""Ends every process when one of them fails: no process waits for one that has gone, and only one says why."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_KEY, _HEARD = "rankwright-failure", "rankwright-heard"
_EVERY = 0.3  # seconds between looks
_GRACE = 2.0  # for a process to end by itself before it is ended; it may be caught in a collective for ever
_LOST = 5  # exit code of who lost the others: a resource error


class Watch:
    """Looks, on a thread of its own, whether another process wrote down a failure.

    Ending a process at any point is safe: what is on disk is complete at any time, and the first process alone
    writes.

    Args:
        connect: makes a connection to the store that the processes share (torch's TCPStore, not shared by threads).
    """

    def __init__(self, connect: Callable[[], Any], *, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self._store, self._watched = connect(), connect()
        self._done = threading.Event()
        self._heard: int | None = None  # the exit code of another that failed first
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The work is done; what happens to the others from here on is no failure."""
        self._done.set()
        self._thread.join()

    def fail(self, code: int) -> bool:
        """Write down that this process failed; whether no other did before."""
        self._done.set()  # this process ends by itself
        if self._heard is not None:
            return False
        mine = json.dumps({"rank": self.rank, "code": code})
        try:
            return self._store.compare_set(_KEY, "", mine).decode() == mine
        except RuntimeError:  # the store went with the first process, which had no time to say anything
            return self.rank == 1

    def leave(self, code: int) -> None:
        """End at once, with the first failure's exit code: an orderly exit would wait for the others' connections.

        The store lives in the first process, unless torchrun keeps it: the first stays until the others have heard.
        """
        try:
            if self._heard is None:
                self._store.add(_HEARD, 1)
                code = json.loads(self._store.get(_KEY))["code"]
            until = time.monotonic() + 3 * _GRACE
            while self.rank == 0 and self._store.add(_HEARD, 0) < self.world and time.monotonic() < until:
                time.sleep(0.05)
        except RuntimeError:
            pass
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if self._heard is None else self._heard)

    def _look(self) -> None:
        while not self._done.wait(_EVERY):
            try:
                if not self._watched.check([_KEY]):
                    continue
                code = self._heard = json.loads(self._watched.get(_KEY))["code"]
                self._watched.add(_HEARD, 1)
            except RuntimeError:
                if self._done.wait(_EVERY):
                    return
                code = _LOST
                if self.rank == 1:  # one of those that are left
                    sys.stderr.write("rankwright: resource error: process 0 ended without a word\n")
                    sys.stderr.write("  fix: see whether memory ran out; the same command goes on\n")
            if not self._done.wait(_GRACE):
                sys.stderr.flush()
                os._exit(code)
            return
