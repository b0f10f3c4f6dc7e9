"""What may be asked of an endpoint: so many requests, so many tokens; nothing is sent that could go beyond."""

from __future__ import annotations

import threading

from ..errors import UsageError


class Spent(Exception):
    """The next request could go beyond the budget."""


class Budget:
    """Counts requests and tokens over all threads; what is under way counts with its estimate until it is known.

    Args:
        requests, tokens: at most so many; None: no limit.
        used_requests, used_tokens: spent by earlier sessions.
    """

    def __init__(
        self, requests: int | None = None, tokens: int | None = None, *, used_requests: int = 0, used_tokens: int = 0
    ) -> None:
        for name, limit in (("requests", requests), ("tokens", tokens)):
            if limit is not None and limit < 1:
                raise UsageError(f"a budget of {limit} {name}", fix="give 1 or more, or leave the budget out")
        self.limits = {"requests": requests, "tokens": tokens}
        self.used = {"requests": used_requests, "tokens": used_tokens}
        self._lock = threading.Lock()

    def take(self, tokens: int) -> None:
        """Reserve one request of about so many tokens.

        Raises:
            Spent: it could go beyond the budget.
        """
        with self._lock:
            for name, amount in (("requests", 1), ("tokens", tokens)):
                limit = self.limits[name]
                if limit is not None and self.used[name] + amount > limit:
                    raise Spent(f"the budget of {limit:,} {name} is spent ({self.used[name]:,} used)")
            self.used["requests"] += 1
            self.used["tokens"] += tokens

    def settle(self, estimate: int, tokens: int) -> None:
        """Put what a request took in place of its estimate."""
        with self._lock:
            self.used["tokens"] += tokens - estimate
