"""A chat endpoint on this machine that misbehaves as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], str]


def by_length(asked: str) -> str:
    """Shorter passages first: an order that a test can know."""
    passages = re.findall(r"^\[(\d+)\] (.*)$", asked, re.M)
    return " > ".join(f"[{number}]" for number, _ in sorted(passages, key=lambda p: (len(p[1]), p[1])))


def completion(text: Any, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": usage,
    } | more


class Fake:
    """What the server is to do, and what it saw.

    Attributes:
        script: the faults of the coming requests, one after the other; then `chance` decides.
        chance: how often a request meets a fault drawn at random.
        paid: how often each question was answered.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer, self.script, self.chance = answer, list[str](), 0.0
        self.faults = ["429", "500", "503", "reset", "cut", "garbage", "empty", "no choice", "huge", "wrong type"]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paid: Counter[str] = Counter()
        self.times: list[float] = []
        self.seen: Counter[str] = Counter()
        self.delay, self.retry_after, self.location = 0.0, "1", ""
        self.at_once = self.most_at_once = 0
        self.lock, self._random = threading.Lock(), random.Random(0)
        self.url = ""

    def fault(self) -> str:
        with self.lock:
            name = self.script.pop(0) if self.script else ""
            if not name and self._random.random() < self.chance:
                name = self._random.choice(self.faults)
            self.seen[name] += 1
            return name


@contextmanager
def serving(answer: Answer = by_length) -> Iterator[Fake]:
    fake = Fake(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with fake.lock:
                fake.requests.append(json.loads(body))
                fake.headers.append(dict(self.headers))
                fake.times.append(time.monotonic())
                fake.at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.at_once)
            try:
                time.sleep(fake.delay)
                _serve(self, fake, fake.fault(), json.loads(body))
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with fake.lock:
                    fake.at_once -= 1

        do_GET = do_POST

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _send(
    handler: BaseHTTPRequestHandler, status: int, data: bytes, *, length: int | None = None, **headers: str
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)
    handler.close_connection = True


def _serve(handler: Any, fake: Fake, fault: str, asked: dict[str, Any]) -> None:
    prompt = asked["messages"][-1]["content"]
    good = json.dumps(completion(fake.answer(prompt))).encode()
    if fault == "reset":
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        return handler.connection.close()
    if fault.isdigit():
        said = json.dumps({"error": {"message": f"because of {handler.headers.get('Authorization')}"}}).encode()
        extra = {"Retry_After": fake.retry_after} if fault in ("429", "503") and fake.retry_after else {}
        extra |= {"Location": fake.location} if fault.startswith("3") else {}
        return _send(handler, int(fault), said, **extra)
    if fault == "slow":
        time.sleep(1.5)
    if fault == "drip":
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(good)))
        handler.end_headers()
        for i in range(len(good)):
            handler.wfile.write(good[i : i + 1])
            time.sleep(0.05)
        return None
    if fault == "huge":
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" " * (1 << 20))
        handler.close_connection = True
        return None
    bodies: dict[str, Any] = {
        "garbage": b"<html>\x1b[31mnot json\xff", "empty": b"", "no choice": {"choices": []}, "deep": b"[" * 100_000,
        "wrong type": {"choices": [{"message": {"content": {"a": 1}}}]}, "list": [1, 2], "null": completion(None),
        "half": json.dumps(completion("[2] > [1] \ud800")).encode(), "talk": completion("Sorry."),
        "parts": completion([{"type": "text", "text": "[1]"}]), "repeats": completion("[2] > [2] > [1]"),
        "foreign": completion("[9] > [0] > [1]"),
        "no usage": {"choices": [{"message": {"content": "[1]"}}], "usage": {"prompt_tokens": -3}},
    }  # fmt: skip
    data = bodies.get(fault, good)
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    if fault == "cut":
        return _send(handler, 200, data[:-5], length=len(data))
    if fault not in fake.faults:
        with fake.lock:
            fake.paid[prompt] += 1
    return _send(handler, 200, data)
