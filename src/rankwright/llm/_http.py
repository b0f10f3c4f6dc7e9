"""One HTTP request: no redirects, a cap on size and time, faults by kind, and errors in which no key can be."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from .. import __version__
from ..errors import UsageError

LARGEST = 4 << 20  # bytes of an answer
_CHUNK, _SHOWN = 1 << 16, 300
_PASSING = {408, 409, 425, 429}
_REFUSED = {400, 413, 422}

Kind = Literal["passing", "garbled", "refused", "fatal"]


class Fault(Exception):
    """Why a request came to nothing.

    Attributes:
        kind: ``passing``: may work later; ``garbled``: an answer that cannot be read; ``refused``: this question is
            not answered; ``fatal``: no question will be.
        retry_after: the header, if there was one.
    """

    def __init__(self, kind: Kind, reason: str, *, retry_after: str | None = None, fix: str | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.retry_after, self.fix = kind, reason, retry_after, fix


@dataclass(frozen=True)
class Address:
    """Where requests go; `shown` is the part that may stand in a message."""

    url: str
    shown: str
    local: bool
    secure: bool

    @classmethod
    def of(cls, url: str) -> Address:
        """The address of chat completions under a base address.

        Raises:
            UsageError: no http address, or one with a name and a password in it.
        """
        fix = "e.g. https://api.openai.com/v1, or http://127.0.0.1:8000/v1 for a server on this machine"
        try:
            parts = urlsplit(url.strip())
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            raise UsageError("the endpoint is no address", fix=fix) from None
        if "@" in parts.netloc:
            raise UsageError("the endpoint has a name or a password in it", fix="give a key by --key-env instead")
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment
        if bad or any(c.isspace() or not c.isprintable() for c in url.strip()) or not url.isascii():
            raise UsageError("the endpoint is no http address", fix=fix)
        path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        host = str(parts.hostname)
        shown = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{path}"
        local = _is_local(host)
        full = shown + (f"?{parts.query}" if parts.query else "")
        return cls(full, shown, local, parts.scheme == "https" or local)


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


class Sender:
    """Sends bodies to one address and reads what comes back; from any thread."""

    def __init__(self, address: Address, key: str | None, *, timeout: float, now: Callable[[], float]) -> None:
        self.address, self._timeout, self._now, self._key = address, timeout, now, key
        self._headers = {
            "Content-Type": "application/json", "Accept": "application/json", "User-Agent": f"rankwright/{__version__}",
        }  # fmt: skip
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        proxies = urllib.request.ProxyHandler({}) if address.local else urllib.request.ProxyHandler()
        secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
        self._opener = urllib.request.build_opener(proxies, _NoRedirect(), secure)

    def send(self, body: bytes) -> bytes:
        """The body of a successful response.

        Raises:
            Fault: there is none.
        """
        request = urllib.request.Request(self.address.url, data=body, headers=self._headers, method="POST")
        deadline = self._now() + self._timeout
        try:
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    return self._read(response, deadline)
            except urllib.error.HTTPError as error:
                with error:
                    raise self._status(error, deadline) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(error) from None

    def _read(self, response: Any, deadline: float) -> bytes:
        length = response.headers.get("Content-Length") or ""
        expected = int(length) if length.isascii() and length.isdigit() and len(length) < 18 else None
        parts: list[bytes] = []
        size = 0
        if expected is not None and expected > LARGEST:
            raise Fault("garbled", f"an answer of {expected:,} bytes, more than {LARGEST:,}")
        while (expected is None or size < expected) and (chunk := response.read1(_CHUNK)):
            parts.append(chunk)
            size += len(chunk)
            if size > LARGEST:
                raise Fault("garbled", f"an answer of more than {LARGEST:,} bytes")
            if self._now() > deadline:
                raise Fault("passing", f"an answer that took more than {self._timeout:g} s")
        if expected is not None and size < expected:
            raise Fault("passing", f"an answer that broke off after {size:,} of {expected:,} bytes")
        return b"".join(parts)

    def _status(self, error: urllib.error.HTTPError, deadline: float) -> Fault:
        code, said = error.code, ""
        with suppress(Fault, OSError, http.client.HTTPException, ValueError):
            said = self.excerpt(self._read(error, deadline))
        reason = f"HTTP {code}{f': {said}' if said else ''}"
        if 300 <= code < 400:
            fix = f"give the address itself: {self.redacted(_place(error.headers.get('Location')))}"
            return Fault("fatal", f"HTTP {code}: it redirects, which is not followed", fix=fix)
        if code in _PASSING or code >= 500:
            return Fault("passing", reason, retry_after=error.headers.get("Retry-After"))
        if code in (401, 403):
            hint = "check the key" if self._key else "it wants a key: --key-env OPENAI_API_KEY names its variable"
            return Fault("fatal", reason, fix=hint)
        return Fault("refused" if code in _REFUSED else "fatal", reason)

    def _broken(self, error: Exception) -> Fault:
        inner = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(inner, ssl.SSLCertVerificationError):
            return Fault("fatal", "its certificate cannot be verified", fix="check the address")
        if isinstance(inner, TimeoutError):
            return Fault("passing", f"no answer within {self._timeout:g} s")
        words = getattr(inner, "strerror", None) or type(inner).__name__
        return Fault("passing", self.redacted(f"no connection, or a broken one ({words})"))

    def redacted(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, "(the key)") if self._key else text

    def excerpt(self, data: bytes) -> str:
        """What a server said, for a message: the error it names, or the first characters; nothing a terminal obeys."""
        text = data[: 1 << 16].decode("utf-8", "replace")
        with suppress(ValueError, RecursionError):
            body = json.loads(text)
            error = body.get("error", body.get("message")) if isinstance(body, dict) else None
            found = error.get("message") if isinstance(error, dict) else error
            text = found if isinstance(found, str) else text
        line = " ".join("".join(c if c.isprintable() else " " for c in self.redacted(text)).split())
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def _place(location: str | None) -> str:
    """A redirect's target without what may be secret in it."""
    try:
        parts = urlsplit(location or "")
    except ValueError:
        return "it does not say where to"
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path
    return "".join(c for c in shown[:_SHOWN] if c.isprintable()) or "it does not say where to"
