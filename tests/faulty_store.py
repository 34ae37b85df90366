"""A proxy in front of an S3 server, with the weak moments of real stores.

What happens to a request is decided by a function of the request, as in `faulty_service`. What is well is answered by
the server behind.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CODES = {"500": "InternalError", "503": "SlowDown", "503-away": "ServiceUnavailable"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect"}


@dataclass(frozen=True)
class Request:
    """One request to the store."""

    method: str
    path: str
    headers: dict[str, str]
    attempt: int
    """How often this was asked for, with this one."""
    number: int
    """Of all requests, from 1."""


Behaviour = Callable[[Request], str]
"""What happens to a request: ``ok``; ``500``, ``503`` (SlowDown) or ``503-away``; ``lost`` (done, and then answered
500); ``cut`` (done, and the answer's body cut short); ``reset`` (no answer); ``slow:SECONDS``; ``hang``."""


class FaultyStore:
    """Forwards requests to an S3 server from threads of its own until closed.

    Parameters
    ----------
    endpoint : str
        Address of the server.
    behaviour : callable
        What happens to each request; everything is well where left out.
    """

    def __init__(self, endpoint: str, behaviour: Behaviour = lambda request: "ok") -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        store, behind = self, urlsplit(endpoint).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # the client has given up
                    self.close_connection = True

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return lambda: store._answer(self, behind)
                raise AttributeError(name)

            def log_message(self, format: str, *arguments: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, asked: BaseHTTPRequestHandler, behind: str) -> None:
        body = _body_of(asked)
        with self._lock:
            self._counts[asked.command, asked.path] += 1
            attempt, number = self._counts[asked.command, asked.path], len(self.requests) + 1
            request = Request(asked.command, asked.path, dict(asked.headers), attempt, number)
            self.requests.append(request)
        what, _, argument = self.behaviour(request).partition(":")
        if what in ("hang", "slow"):
            self.closing.wait(float(argument or 3600))
        if what in ("hang", "reset"):
            asked.close_connection = True
            return
        if what in CODES:
            _send(asked, int(what[:3]), _error_page(CODES[what]))
            return
        connection = http.client.HTTPConnection(behind, timeout=60)
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in HOP_BY_HOP}
        connection.request(asked.command, asked.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if what == "lost":
            _send(asked, 500, _error_page("InternalError"))
        else:
            _send(asked, answer.status, content, answer.getheaders(), cut=what == "cut")


def _body_of(asked: BaseHTTPRequestHandler) -> bytes:
    if asked.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return asked.rfile.read(int(asked.headers.get("Content-Length", 0)))
    parts = []
    while size := int(asked.rfile.readline().split(b";")[0], 16):
        parts.append(asked.rfile.read(size))
        asked.rfile.readline()
    while asked.rfile.readline().strip():
        pass
    return b"".join(parts)


def _send(
    asked: BaseHTTPRequestHandler,
    code: int,
    content: bytes,
    headers: list[tuple[str, str]] | None = None,
    *,
    cut: bool = False,
) -> None:
    asked.send_response_only(code)
    length = len(content)
    for name, value in headers or [("Content-Type", "application/xml")]:
        if name.lower() == "content-length" and asked.command == "HEAD":
            length = int(value)  # of the object that is not sent
        if name.lower() not in HOP_BY_HOP:
            asked.send_header(name, value)
    asked.send_header("Content-Length", str(length))
    asked.end_headers()
    if asked.command != "HEAD":
        asked.wfile.write(content[: len(content) // 2] if cut else content)
    asked.close_connection = asked.close_connection or cut


def _error_page(code: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>Please reduce your request rate.'
        f"</Message><RequestId>{time.monotonic_ns()}</RequestId></Error>"
    ).encode()
