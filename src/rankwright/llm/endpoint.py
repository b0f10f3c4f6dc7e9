"""A chat endpoint of OpenAI's protocol, asked with time-outs, size caps and retries; its key is never shown."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from ..errors import RemoteError, UsageError
from ..randomness import generator, key
from . import _http
from ._http import Fault
from .budget import Budget

_PATIENCE = 600.0  # seconds that an endpoint may ask us to wait
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_BREAKER = 20  # failures in a row, over all threads
_DEFAULTS = {"temperature": 0, "max_tokens": 512}


class Unanswered(RemoteError):
    """The endpoint works and will not answer this one question."""


class Halted(Exception):
    """Another thread asked all others to stop."""


class Reply(NamedTuple):
    """What a model answered, and what it took; tokens are the endpoint's own count, or estimated from the texts."""

    text: str
    finish: str
    prompt_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class Endpoint:
    """Where a language model answers, and how it is asked.

    Args:
        url: the base address, e.g. ``https://api.openai.com/v1``; ``/chat/completions`` is added.
        model: its name there.
        key_env: the environment variable that holds the API key; None: no key is sent.
        parameters: more fields of the request, over the defaults ``temperature: 0`` and ``max_tokens: 512``; null
            takes a default out.
        timeout: seconds for one request.
        attempts: how often one question is sent before its failure counts.
        insecure: a key may go over plain http to another machine.

    Raises:
        UsageError: an address that cannot be asked, or a number below its least.
    """

    url: str
    model: str
    key_env: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 120.0
    attempts: int = 6
    insecure: bool = False

    def __post_init__(self) -> None:
        address = _http.Address.of(self.url)
        if not self.model.strip():
            raise UsageError("the model has no name", fix="name the model as the endpoint does, e.g. --llm gpt-4o-mini")
        if not (0 < self.timeout < float("inf")) or self.attempts < 1:
            what = f"timeout is {self.timeout:g} s and attempts {self.attempts}"
            raise UsageError(what, fix="give a time above 0 and 1 attempt or more")
        if self.key_env is not None and not address.secure and not self.insecure:
            what = "a key would go over plain http to another machine, readable on the way"
            raise UsageError(what, where=address.shown, fix="use https, or say --insecure-http")

    def request(self) -> dict[str, Any]:
        """The fields of a request but for its messages."""
        fields = {"model": self.model, **_DEFAULTS, **self.parameters}
        return {name: value for name, value in fields.items() if value is not None}


class Clock:
    """Time as the client sees it; tests replace it."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def wait(self, stop: threading.Event, seconds: float) -> None:
        stop.wait(seconds)


class Client:
    """Asks one endpoint from any number of threads.

    A failure that passes (429, 5xx, time-out, broken connection or answer) is tried again, after twice the time each
    time or when the endpoint says (Retry-After), which then holds for all threads. Other 4xx are never tried again.
    After 20 failures in a row nothing more is sent. Redirects are not followed: a key goes to one host alone.

    Args:
        trusted: an earlier session had answers from this endpoint: a refusal is about one question then.

    Raises:
        UsageError: the key's variable is not set, or what it holds cannot be a key.
    """

    def __init__(
        self, endpoint: Endpoint, *, budget: Budget | None = None, trusted: bool = False, clock: Clock | None = None
    ) -> None:
        self.endpoint, self.budget = endpoint, budget or Budget()
        self.stop = threading.Event()
        self.retries = 0
        self._clock, self._trusted = clock or Clock(), trusted
        self._sender = _http.Sender(
            _http.Address.of(endpoint.url), _key(endpoint.key_env), timeout=endpoint.timeout, now=self._clock.now
        )
        self._lock = threading.Lock()
        self._failures, self._not_before = 0, 0.0

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """The model's answer.

        Raises:
            Unanswered: this question is refused, or never answered in a form that can be read.
            RemoteError: the endpoint cannot be used, or fails again and again.
            Spent: the budget does not allow another request.
            Halted: `stop` was set.
        """
        body = json.dumps({**self.endpoint.request(), "messages": list(messages)}).encode()
        prompt = sum(len(message["content"]) for message in messages)
        for attempt in range(1, self.endpoint.attempts + 1):
            self._wait()
            try:
                reply = self._once(body, prompt)
            except Fault as fault:
                self._failed(fault, attempt, body)
                continue
            with self._lock:
                self._failures, self._trusted = 0, True
            return reply
        raise AssertionError("the last attempt raises")

    def _once(self, body: bytes, prompt: int) -> Reply:
        most = self.endpoint.request().get("max_tokens")
        estimate = _tokens(prompt) + (most if isinstance(most, int) else 0)
        self.budget.take(estimate)
        used = 0
        try:
            data = self._sender.send(body)
            used = estimate  # whatever it is, it was paid for
            reply = self._read(data, prompt)
            used = reply.tokens
        finally:
            self.budget.settle(estimate, used)
        return reply

    def _read(self, data: bytes, prompt: int) -> Reply:
        try:
            reply = read_reply(data, prompt)
        except ValueError as error:
            raise Fault("garbled", f"{error}: {self._sender.excerpt(data)}") from None
        return reply._replace(text=self._sender.redacted(reply.text))

    def _wait(self) -> None:
        """Until every thread may send again."""
        while not self.stop.is_set():
            with self._lock:
                left = self._not_before - self._clock.now()
            if left <= 0:
                return
            self._clock.wait(self.stop, left)
        raise Halted

    def _failed(self, fault: Fault, attempt: int, body: bytes) -> None:
        """Wait before the next attempt, or say why there is none."""
        where = self._sender.address.shown
        if fault.kind == "fatal" or (fault.kind == "refused" and not self._trusted):
            raise RemoteError(fault.reason, where=where, fix=fault.fix or _FIX)
        if fault.kind == "refused":
            raise Unanswered(fault.reason, where=where)
        with self._lock:
            self._failures += 1
            self.retries += 1
            if self._failures >= _BREAKER:
                what = f"{_BREAKER} requests in a row failed, the last one: {fault.reason}"
                raise RemoteError(what, where=where, fix=f"{_AGAIN} when it works again")
        if attempt == self.endpoint.attempts:
            if fault.kind == "garbled" and self._trusted:
                raise Unanswered(fault.reason, where=where)
            raise RemoteError(f"{fault.reason}, {attempt} times", where=where, fix=f"{_AGAIN} when it works again")
        asked = _retry_after(fault.retry_after, self._clock.wall())
        if asked is not None and asked > _PATIENCE:
            what = f"the endpoint asks to wait {asked:,.0f} s ({fault.reason})"
            raise RemoteError(what, where=where, fix=f"{_AGAIN} after that time")
        if asked is not None:
            with self._lock:
                self._not_before = max(self._not_before, self._clock.now() + asked)
        else:
            grown = min(_FIRST_WAIT * 2.0 ** (attempt - 1), _LONGEST_WAIT)
            spread = generator(0, "backoff", key(0, "body", body.decode()), attempt).random()
            self._clock.wait(self.stop, grown * (0.5 + 0.5 * spread))


_FIX = "check --endpoint, --llm and --key-env, and whether the model takes temperature and max_tokens (--parameters)"
_AGAIN = "every answer so far is kept: run the same command again"


def _key(name: str | None) -> str | None:
    """The API key that an environment variable holds."""
    if name is None:
        return None
    value = os.environ.get(name, "").strip()
    if not value:
        raise UsageError(f"the environment variable {name!r} is not set", fix=f"export {name}=..., or name another one")
    if not all(33 <= ord(c) < 127 for c in value):
        raise UsageError(f"what the environment variable {name!r} holds cannot be a key: white space or signs in it")
    return value


def _retry_after(value: str | None, wall: float) -> float | None:
    """Seconds that a Retry-After header names, as a number or as a date (RFC 9110); None: nothing that can be read."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text[:20])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall)
    except (ValueError, TypeError, OverflowError):
        return None


def _tokens(characters: int) -> int:
    """About so many tokens: four characters each."""
    return -(-characters // 4)


def read_reply(data: bytes, prompt: int = 0) -> Reply:
    """The answer in the body of a response.

    Args:
        prompt: characters that were asked, for an endpoint that does not count tokens.

    Raises:
        ValueError: it is not what the protocol says.
    """
    try:
        body = json.loads(data)
        choice = body["choices"][0]
        content = choice["message"].get("content")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("an answer that is no chat completion") from None
    if isinstance(content, list):  # parts
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        raise ValueError("an answer whose content is no text")
    text = (content or "").encode("utf-8", "replace").decode()  # no half characters
    finish, usage = choice.get("finish_reason"), body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    sizes = [
        _tokens(prompt) if counts[0] is None else counts[0],
        _tokens(len(text)) if counts[1] is None else counts[1],
    ]
    return Reply(text, finish if isinstance(finish, str) else "", *sizes)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 10**9 else None
