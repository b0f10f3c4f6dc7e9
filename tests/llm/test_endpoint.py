"""The client against a server that misbehaves: every fault is typed, tried again or not, waited for, and keyless."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from rankwright.errors import RemoteError, UsageError
from rankwright.llm import Budget, Client, Endpoint, Unanswered
from rankwright.llm.budget import Spent
from rankwright.llm.endpoint import Clock, Halted, read_reply

_spec = importlib.util.spec_from_file_location("llm_fake", Path(__file__).with_name("fake.py"))
assert _spec is not None
assert _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
sys.modules["llm_fake"] = fake
_spec.loader.exec_module(fake)

KEY = "sk-canary-0123456789abcdef"
ASKED = [{"role": "user", "content": "[1] bb\n[2] a"}]


class Quick(Clock):
    """Time that passes at once when it is waited for."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self._ahead, self._lock = 0.0, threading.Lock()

    def now(self) -> float:
        return time.monotonic() + self._ahead

    def wait(self, stop: threading.Event, seconds: float) -> None:
        with self._lock:
            self.waited.append(seconds)
            self._ahead += seconds


@pytest.fixture
def server() -> Iterator[Any]:
    with fake.serving() as made:
        yield made


def client(server: Any, *, clock: Clock | None = None, trusted: bool = False, **more: Any) -> Client:
    budget = more.pop("budget", None)
    return Client(Endpoint(server.url, "m", **more), clock=clock or Quick(), trusted=trusted, budget=budget)


def test_an_answer_and_what_was_sent(server):
    reply = client(server, parameters={"top_p": 1, "max_tokens": None}).ask(ASKED)
    assert reply.text == "[2] > [1]"
    assert (reply.finish, reply.prompt_tokens, reply.answer_tokens, reply.tokens) == ("stop", 100, 10, 110)
    assert server.requests == [{"model": "m", "temperature": 0, "top_p": 1, "messages": ASKED}]
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "fault",
    ["500", "503", "429", "408", "reset", "cut", "garbage", "empty", "no choice", "wrong type", "huge", "deep", "list"],
)
def test_what_may_pass_is_tried_again(server, fault):
    server.script = [fault, fault]
    made = client(server)
    assert made.ask(ASKED).text == "[2] > [1]"
    assert len(server.requests) == 3
    assert made.retries == 2


@pytest.mark.parametrize("fault", ["400", "401", "402", "403", "404", "413", "422", "301", "302", "307", "308"])
def test_what_will_not_pass_is_asked_once(server, fault):
    server.script = [fault]
    with pytest.raises(RemoteError) as caught:
        client(server).ask(ASKED)
    assert f"HTTP {fault}" in caught.value.what
    assert caught.value.fix
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["400", "413", "422"])
def test_a_refusal_is_about_one_question_once_others_were_answered(server, fault):
    made = client(server)
    made.ask(ASKED)
    server.script = [fault]
    with pytest.raises(Unanswered):
        made.ask(ASKED)
    assert len(server.requests) == 2
    assert made.ask(ASKED)


def test_an_answer_that_is_never_readable_is_about_one_question(server):
    server.script = ["garbage"] * 6
    with pytest.raises(Unanswered, match="no chat completion"):
        client(server, trusted=True).ask(ASKED)
    server.script = ["garbage"] * 6
    with pytest.raises(RemoteError) as caught:
        client(server).ask(ASKED)
    assert not isinstance(caught.value, Unanswered)
    assert "\x1b" not in str(caught.value)


def test_waits_double_and_spread(server):
    clock = Quick()
    server.script = ["500"] * 5
    client(server, clock=clock).ask(ASKED)
    assert all(0.5 * 2**i <= wait <= 2**i for i, wait in enumerate(clock.waited))
    assert len(clock.waited) == 5


@pytest.mark.parametrize("seconds", [3, 90])
def test_retry_after_in_seconds_and_as_a_date(server, seconds):
    for written in (str(seconds), formatdate(time.time() + seconds, usegmt=True)):
        clock = Quick()
        server.retry_after, server.script = written, ["429"]
        client(server, clock=clock).ask(ASKED)
        assert seconds - 1.5 <= sum(clock.waited) <= seconds * 1.1


def test_retry_after_holds_for_every_thread(server):
    clock = Quick()
    server.retry_after, server.script = "5", ["429"]
    made = client(server, clock=clock)
    before = clock.now()
    threads = [threading.Thread(target=made.ask, args=(ASKED,)) for _ in range(3)]
    threads[0].start()
    while made.retries < 1:
        time.sleep(0.005)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert clock.now() - before >= 5


def test_retry_after_in_real_time(server):
    server.retry_after, server.script = "0.4", ["429"]
    client(server, clock=Clock()).ask(ASKED)
    assert 0.4 <= server.times[1] - server.times[0] < 0.8


@pytest.mark.parametrize("written", ["", "soon", "-5", "nan", "Wed, 99 Nov 2026", "\x00"])
def test_a_retry_after_that_says_nothing(server, written):
    clock = Quick()
    server.retry_after, server.script = written.replace("\x00", "?"), ["429"]
    client(server, clock=clock).ask(ASKED)
    assert sum(clock.waited) <= 1


def test_a_retry_after_beyond_patience_ends_the_work(server):
    server.retry_after, server.script = "86400", ["429"]
    with pytest.raises(RemoteError, match="asks to wait 86,400 s"):
        client(server).ask(ASKED)
    assert len(server.requests) == 1


def test_nothing_is_sent_after_twenty_failures_in_a_row(server):
    server.script = ["500"] * 100
    made = client(server, attempts=1000)
    with pytest.raises(RemoteError, match="20 requests in a row failed"):
        made.ask(ASKED)
    assert len(server.requests) == 20


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_a_request_ends_in_time(server, fault):
    server.script = [fault] * 2
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"0\.3 s, 2 times"):
        client(server, clock=Clock(), timeout=0.3, attempts=2).ask(ASKED)
    assert time.monotonic() - began < 4


def test_nobody_answers():
    with pytest.raises(RemoteError, match=r"no connection.*, 2 times"):
        Client(Endpoint("http://127.0.0.1:9/v1", "m", attempts=2), clock=Quick()).ask(ASKED)


def test_odd_answers_are_read(server):
    for fault, text in (("null", ""), ("half", "[2] > [1] ?"), ("parts", "[1]"), ("no usage", "[1]")):
        server.script = [fault]
        assert client(server).ask(ASKED).text == text
    assert read_reply(b'{"choices": [{"message": {"content": "abcdefgh"}}]}', 9) == ("abcdefgh", "", 3, 2)


def test_a_stop_ends_waiting(server):
    made = client(server, clock=Clock())
    server.retry_after, server.script = "60", ["429"]
    thread = threading.Timer(0.2, made.stop.set)
    thread.start()
    with pytest.raises(Halted):
        made.ask(ASKED)
    assert len(server.requests) == 1


def test_budgets_hold(server):
    made = client(server, budget=Budget(requests=2))
    made.ask(ASKED)
    made.ask(ASKED)
    with pytest.raises(Spent, match="2 requests"):
        made.ask(ASKED)
    made = client(server, budget=Budget(tokens=1000), parameters={"max_tokens": 50})
    for _ in range(9):
        made.ask(ASKED)
    with pytest.raises(Spent, match="990 used"):
        made.ask(ASKED)
    server.script = ["500"]
    with pytest.raises(Spent):  # what failed was a request too
        client(server, budget=Budget(requests=1)).ask(ASKED)
    with pytest.raises(UsageError):
        Budget(requests=0)


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    return "MY_KEY"


def test_a_key_is_sent_and_never_shown(server, key):
    made = client(server, key_env=key)
    made.ask(ASKED)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    for fault in ("401", "400", "404"):
        server.script = [fault]
        with pytest.raises(RemoteError) as caught:
            client(server, key_env=key).ask(ASKED)
        assert "because of" in str(caught.value)
        assert KEY not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))
        assert caught.value.__cause__ is None
    assert KEY not in repr(made.endpoint)
    server.answer = lambda asked: f"[1] {KEY}"
    assert KEY not in made.ask(ASKED).text


def test_a_redirect_does_not_carry_the_key(server, key):
    with fake.serving() as other:
        server.location = f"{other.url}/x?key={KEY}"
        for fault in ("301", "302", "303", "307", "308"):
            server.script = [fault]
            with pytest.raises(RemoteError, match="redirects") as caught:
                client(server, key_env=key).ask(ASKED)
            assert other.url in str(caught.value)
            assert KEY not in str(caught.value)
        assert other.requests == []


@pytest.mark.parametrize("value", ["", "  ", "two words", "naïve", "a\r\nX: y"])
def test_a_variable_that_holds_no_key(server, monkeypatch, value):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UsageError) as caught:
        client(server, key_env="MY_KEY")
    assert not value.strip() or value not in str(caught.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UsageError, match="not set"):
        client(server, key_env="MY_KEY")


def test_plain_http_to_another_machine_with_a_key_is_refused():
    with pytest.raises(UsageError, match="plain http"):
        Endpoint("http://example.org/v1", "m", key_env="MY_KEY")
    for url, more in (
        ("http://example.org/v1", {"insecure": True}), ("https://example.org/v1", {}), ("http://[::1]:80/v1", {}),
        ("http://localhost:8000/v1", {}), ("http://127.9.9.9/v1", {}),
    ):  # fmt: skip
        Endpoint(url, "m", key_env="MY_KEY", **more)
    Endpoint("http://example.org/v1", "m")


@pytest.mark.parametrize(
    "url",
    ["", "example.org/v1", "file:///etc/passwd", "ftp://x/v1", "http://", "http://a:b@example.org/v1", "http://x:99999/v1",
     "http://x/v1#f", "http://x/a b", "http://x/\r\nHost: y", "http://é/v1"],
)  # fmt: skip
def test_addresses_that_cannot_be_asked(url):
    with pytest.raises(UsageError) as caught:
        Endpoint(url, "m")
    assert "a:b" not in str(caught.value)


def test_addresses_keep_their_query_and_hide_it(server):
    server.url += "/chat/completions?api-version=1&k=secret"
    assert client(server).ask(ASKED)
    server.script = ["404"]
    with pytest.raises(RemoteError) as caught:
        client(server).ask(ASKED)
    assert "secret" not in str(caught.value)


def test_settings_that_do_not_fit():
    for more in ({"timeout": 0}, {"attempts": 0}, {"timeout": float("inf")}):
        with pytest.raises(UsageError):
            Endpoint("http://localhost/v1", "m", **more)
    with pytest.raises(UsageError):
        Endpoint("http://localhost/v1", " ")


def test_a_proxy_is_not_used_for_this_machine(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert client(server).ask(ASKED)
