"""Progress of long work: a bar with rate and ETA on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Item = TypeVar("_Item")
_SECONDS_BETWEEN_LINES = 10.0
_quiet = False
_bars = 0  # shown now: a terminal has room for one, work within work shows none


def quiet(value: bool = True) -> None:
    """Silence (or restore) progress and remarks, e.g. under ``--json``."""
    global _quiet
    _quiet = value


def say(text: str) -> None:
    """A remark for the person watching; goes to stderr so that stdout stays machine-readable."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8.2 s``, ``3m05s``, ``2h14m``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """Counts done units of a known (or unknown) total; made by `progress`."""

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self.title, self.total, self.unit, self.done, self.note = title, total, unit, 0, ""
        self._began = self._last = time.monotonic()
        self._skipped = 0
        self._bar = self._task = None
        self._inner = _bars > 0
        if not _quiet and not self._inner and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total, rate="", note="")
            self._bar.start()
            _count_bars(1)

    def skip(self, n: int) -> None:
        """Count `n` units that an earlier session had done; they do not enter the rate."""
        self._skipped += n
        self.advance(n)

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units; `note` is shown behind them (e.g. the loss)."""
        self.done += n
        self.note = note or self.note
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, rate=self._rate(now), note=self.note)
        elif not self._inner and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            say(self._line(now))

    def close(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.stop()
            _count_bars(-1)
        took = duration(now - self._began)
        say(f"{self.title}: {self.done:,} {self.unit} in {took} ({self._rate(now)}) {self.note}".rstrip())

    def _speed(self, now: float) -> float:
        return (self.done - self._skipped) / max(now - self._began, 1e-9)

    def _rate(self, now: float) -> str:
        speed = self._speed(now)
        return f"{speed:,.1f} {self.unit}/s" if speed >= 1 or speed == 0 else f"{1 / speed:,.1f} s each"

    def _line(self, now: float) -> str:
        if not self.total:
            return f"{self.title}: {self.done:,} {self.unit}  {self._rate(now)}  {self.note}".rstrip()
        eta = (self.total - self.done) / max(self._speed(now), 1e-9)
        share = 100 * self.done / self.total
        return (
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit} ({share:.0f}%)  {self._rate(now)}  "
            f"ETA {duration(eta)}  {self.note}"
        ).rstrip()


def _count_bars(change: int) -> None:
    global _bars
    _bars += change


@contextmanager
def progress(title: str, total: int | None = None, unit: str = "items") -> Iterator[Progress]:
    """A bar for the block: ``with progress("encode", len(docs), "docs") as bar: bar.advance(32)``."""
    bar = Progress(title, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def track(items: Iterable[_Item], title: str, total: int | None = None, unit: str = "items") -> Iterator[_Item]:
    """Iterate with a bar."""
    with progress(title, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()
