"""The answers of language models on disk, found again by what was asked: none is paid for twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from .. import storage
from ..progress import say
from .endpoint import Reply


def question_key(model: str, parameters: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> str:
    """128 bits of all that an answer depends on; the address of the server is no part of it."""
    asked = json.dumps([model, dict(parameters), list(messages)], sort_keys=True)
    return hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()


class Journal:
    """Answers by key: appended as they come, each line with its checksum; a line that a kill tore is dropped."""

    def __init__(self, path: Path, records: list[dict[str, Any]]) -> None:
        self.path, self._lock = path, threading.Lock()
        self._replies: dict[str, Reply] = {}
        self.tokens = 0
        for record in records:
            self._keep(record["key"], Reply(*(record[name] for name in Reply._fields)))

    @classmethod
    @contextmanager
    def open(cls, path: str | Path) -> Iterator[Journal]:
        """The journal at `path`, made with its first answer; held until the block ends.

        Raises:
            ResourceError: another process holds it.
        """
        path = Path(path)
        with storage.lock(path.with_name(f".{path.name}.lock")):
            lines, damaged = storage.readable_lines(path, ["prompt_tokens", "answer_tokens"])
            sound = [line for line in lines if _checksum(line) == line.get("xxh3")]
            if damaged := damaged + len(lines) - len(sound):
                say(f"{damaged:,} damaged lines of {path} are passed over: what they answered is asked again")
            yield cls(path, sound)

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The answer to what was asked before, or None."""
        with self._lock:
            return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep an answer, on disk first."""
        record = {"key": key, **reply._asdict()}
        with self._lock:
            storage.append_line(self.path, record | {"xxh3": _checksum(record)})
            self._keep(key, reply)

    def _keep(self, key: str, reply: Reply) -> None:
        self._replies[key] = reply
        self.tokens += reply.tokens


def _checksum(record: Mapping[str, Any]) -> str:
    """Of the fields that `add` writes; a line with other fields or types has none that fits."""
    fields = [record.get("key"), *(record.get(name) for name in Reply._fields)]
    return xxhash.xxh3_64_hexdigest(json.dumps(fields).encode())
