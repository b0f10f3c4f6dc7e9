"""One flag that SIGINT, SIGTERM and SIGUSR1 raise and that every long loop polls."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Stopped

_requested = threading.Event()
_name, _first = "", 0.0
_GRACE = 0.5  # seconds


def requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _requested.is_set()


def check(resume: str = "run the same command again") -> None:
    """Raise `Stopped` when a signal came; call it wherever stopping loses nothing."""
    if _requested.is_set():
        raise Stopped(f"stopped by {_name or 'request'}; what is finished is kept", fix=f"{resume} to go on")


def _handle(number: int, _frame: object) -> None:
    global _name, _first
    if _requested.is_set():
        if time.monotonic() - _first > _GRACE:  # sooner it is the same stop, passed on by a wrapper
            os._exit(Stopped.code)  # the second signal: the person means it
        return
    _name, _first = signal.Signals(number).name, time.monotonic()
    _requested.set()


@contextmanager
def handled() -> Iterator[None]:
    """Within the block, signals raise the flag instead of ending the process; a second one ends it at once.

    Inside another such block, or outside the main thread, it changes nothing: the outermost block owns the flag.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is _handle:
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    before = {number: signal.signal(number, _handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
        _requested.clear()
