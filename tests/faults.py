"""A network between a client and an S3 API that goes wrong by seed: refuses, resets, dawdles, cuts off, lies, forgets.

Which fault a request meets depends on the seed, its method, its path and how often that came before, never on what
other requests do meanwhile: the same run meets the same faults.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: ``slow_down`` 503; ``server_error`` 500; ``reset`` before the store saw the request; ``dropped_reply`` after it did;
#: ``slow_body`` and ``truncated_body`` of a reply; ``conflict`` 409 and ``precondition`` 412 on creates, unseen by the
#: store; ``blind``: the store is not told of the precondition, as if it knew none.
KINDS = (
    "slow_down",
    "server_error",
    "reset",
    "dropped_reply",
    "slow_body",
    "truncated_body",
    "conflict",
    "precondition",
)
_ANSWERS = {
    "slow_down": (503, "SlowDown"),
    "server_error": (500, "InternalError"),
    "conflict": (409, "ConditionalRequestConflict"),
    "precondition": (412, "PreconditionFailed"),
}
_CREATES_ONLY = frozenset({"conflict", "precondition", "blind"})
_PRECONDITION = "if-none-match"


@dataclass(slots=True)
class Faults:
    """``rates``: share of requests that meet each kind. ``requests`` counts (method, status), ``accepted`` its puts,
    ``longest_row``: how many faults in a row one request may meet, so that every request succeeds in the end."""

    rates: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    longest_row: int = 3
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    _in_a_row: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, method: str, path: str, *, is_create: bool) -> str:
        """The fault that this request meets, empty for none."""
        key = (method, path)
        with self._lock:
            self._seen[key] += 1
            if self._in_a_row[key] >= self.longest_row:
                self._in_a_row[key] = 0
                return ""
            digest = hashlib.sha256(f"{self.seed} {method} {path} {self._seen[key]}".encode()).digest()
            number, kind = random.Random(digest).random(), ""
            for name, rate in self.rates.items():
                if name in _CREATES_ONLY and not is_create:
                    continue
                if number < rate:
                    kind = name
                    break
                number -= rate
            if kind:
                self.met[kind] += 1
                self._in_a_row[key] += 1
            return kind

    def count(self, method: str, path: str, status: int, *, is_create: bool) -> None:
        """Take note of an answered request."""
        with self._lock:
            self.requests[(method, status)] += 1
            if method == "PUT" and status == 200:
                self.accepted[path] += 1

    def total(self, method: str) -> int:
        """Requests of a method, whatever came of them."""
        return sum(number for (name, _), number in self.requests.items() if name == method)


@contextmanager
def faulty_network(store: str, faults: Faults) -> Iterator[str]:
    """The address of a network before ``store`` that goes wrong as ``faults`` says."""
    upstream = urlsplit(store).netloc

    class Handler(_Handler):
        pass

    Handler.upstream, Handler.faults = upstream, faults
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = ""
    faults = Faults()

    def do_GET(self) -> None:
        self._forward()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - names that http.server looks for

    def log_message(self, *_arguments: object) -> None: ...

    def _forward(self) -> None:
        body = self._body()
        is_create = self.command == "PUT" and _PRECONDITION in {name.lower() for name in self.headers}
        fault = self.faults.draw(self.command, self.path, is_create=is_create)
        if fault in _ANSWERS:
            self._answer(*_ANSWERS[fault], is_create=is_create)
        elif fault == "reset":
            self._reset(0, is_create=is_create)
        else:
            self._pass_on(body, fault, is_create=is_create)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        if self.headers.get("Expect", "").lower() == "100-continue":
            pass  # the base class has answered it
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _pass_on(self, body: bytes, fault: str, *, is_create: bool) -> None:
        left_out = {"transfer-encoding", "content-length", "expect", "connection"}
        left_out |= {_PRECONDITION} if fault == "blind" else set()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        connection = http.client.HTTPConnection(self.upstream, timeout=120)
        try:
            connection.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        if fault == "dropped_reply":
            self._reset(reply.status, is_create=is_create)
            return
        self.faults.count(self.command, self.path, reply.status, is_create=is_create)
        self.send_response_only(reply.status, reply.reason)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if reply.getheader("Content-Length") is None and self.command != "HEAD" and reply.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self._send(content, fault)

    def _send(self, content: bytes, fault: str) -> None:
        if fault == "truncated_body" and content:
            self.wfile.write(content[: len(content) // 2])
            self._hang_up()
        elif fault == "slow_body" and content:
            for start in range(0, len(content), max(1, len(content) // 4)):
                time.sleep(0.05)
                self.wfile.write(content[start : start + max(1, len(content) // 4)])
        else:
            self.wfile.write(content)

    def _answer(self, status: int, code: str, *, is_create: bool) -> None:
        self.faults.count(self.command, self.path, status, is_create=is_create)
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(status, code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self, status: int, *, is_create: bool) -> None:
        self.faults.count(self.command, self.path, status, is_create=is_create)
        # Closing with data unread and no time to linger makes the kernel send a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
