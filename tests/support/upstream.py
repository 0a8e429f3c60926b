"""A scripted upstream: a real HTTP server that answers as a test says."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.network import known_as, listen_on


@dataclass
class Reply:
    """One answer: bytes as they are, or rows that become JSON."""

    body: bytes | list[Any] | dict[str, Any] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"
    declared_length: int | None = None
    """A Content-Length other than the true one: the transfer is cut off."""
    hang: bool = False
    """Keep silent, with the connection open, until the server is closed."""
    stall: bool = False
    """Fall silent after the body, which a larger `declared_length` says is not its end."""
    drip_seconds: float = 0
    """Time between two bytes of the body, which then come one by one."""

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        # Who asked may hang up in the middle: that is its business, and what some tests are on.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Upstream:
    """Answers each path with what `replies` has for it: a reply, a list of replies in turn
    (the last one stays), or a function of the request."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply | list[Reply] | Callable[[Seen], Reply]] = {}
        self.seen: list[Seen] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = _Server((listen_on(), 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{known_as()}:{self._server.server_address[1]}"
        # A short poll, so that closing it takes no half second.
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)
        self._thread.start()

    def pages(self, path: str, rows: list[Any]) -> None:
        """Serve rows in pages, by the parameters `page` and `per_page`."""

        def page(seen: Seen) -> Reply:
            size, number = int(seen.query.get("per_page", 250)), int(seen.query.get("page", 1))
            return Reply(rows[(number - 1) * size : number * size])

        self.replies[path] = page

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        seen = Seen(parts.path, query, dict(handler.headers))
        with self._lock:
            self.seen.append(seen)
            script = self.replies.get(parts.path, Reply(b'{"error": "not found"}', status=404))
            if isinstance(script, list):
                script = script.pop(0) if len(script) > 1 else script[0]
        reply = script(seen) if callable(script) else script
        if reply.hang:
            self._closing.wait()
            handler.close_connection = True
            return
        content = reply.content()
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.content_type)
        length = len(content) if reply.declared_length is None else reply.declared_length
        handler.send_header("Content-Length", str(length))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        self._send(handler, reply, content)
        if reply.stall:
            self._closing.wait()
        if reply.declared_length is not None:
            handler.close_connection = True

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply, content: bytes) -> None:
        if not reply.drip_seconds:
            handler.wfile.write(content)
            return
        for byte in content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if self._closing.wait(reply.drip_seconds):
                return


@contextmanager
def upstream() -> Iterator[Upstream]:
    """A running scripted upstream."""
    server = Upstream()
    try:
        yield server
    finally:
        server.close()
