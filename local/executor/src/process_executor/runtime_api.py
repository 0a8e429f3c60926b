"""The HTTP side of the Lambda Runtime API, for one process.

HTTP/1.1 with kept connections and bodies of known length, which is what awslambdaric's clients
send. https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

_PREFIX = "/2018-06-01/runtime/"
# awslambdaric sends an error's stack for X-Ray in a header of up to 1 MB.
_HEAD_LIMIT = 2 * 1024 * 1024


@dataclass(frozen=True)
class Call:
    """A call as the runtime receives it; deadline in Unix milliseconds."""

    request_id: str
    payload: bytes
    deadline: int
    function_arn: str
    trace_id: str


class Runtime(Protocol):
    """What the server tells of a process, and asks."""

    async def next_call(self) -> Call:
        """Wait for a call; that the runtime asks means that its start has succeeded."""
        ...

    def answer(self, request_id: str, body: bytes, *, failed: bool) -> bool:
        """Take a call's result; False if that call is not under way."""
        ...

    def start_failed(self, body: bytes) -> None:
        """Take the error that kept the runtime from starting."""
        ...


class RuntimeApi:
    """A server on a loopback port of its own."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve this runtime once opened."""
        self._runtime = runtime
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Listen; the address as host and port."""
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, limit=_HEAD_LIMIT
        )
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def close(self) -> None:
        """Stop listening and drop the connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        try:
            # A cancelled wait is this server's end, a broken connection the process's.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._serve(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False if there is none any more."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *lines = head.split("\r\n")
        method, path, _ = request.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        body = await reader.readexactly(int(headers.get("content-length") or 0))
        status, answer, extra = await self._route(method, path.removeprefix(_PREFIX), body)
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(answer)}",
            *(f"{name}: {value}" for name, value in extra.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer)
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    async def _route(
        self, method: str, path: str, body: bytes
    ) -> tuple[HTTPStatus, bytes, Mapping[str, str]]:
        match method, path.split("/"):
            case "GET", ["invocation", "next"]:
                call = await self._runtime.next_call()
                return HTTPStatus.OK, call.payload, _headers(call)
            case "POST", ["invocation", request_id, "response" | "error" as kind]:
                if self._runtime.answer(request_id, body, failed=kind == "error"):
                    return HTTPStatus.ACCEPTED, b'{"status":"OK"}', {}
                return HTTPStatus.BAD_REQUEST, _refusal("InvalidRequestID", request_id), {}
            case "POST", ["init", "error"]:
                self._runtime.start_failed(body)
                return HTTPStatus.ACCEPTED, b'{"status":"OK"}', {}
            case _:
                return HTTPStatus.NOT_FOUND, _refusal("InvalidRequest", f"{method} {path}"), {}


def _headers(call: Call) -> dict[str, str]:
    return {
        "Lambda-Runtime-Aws-Request-Id": call.request_id,
        "Lambda-Runtime-Deadline-Ms": str(call.deadline),
        "Lambda-Runtime-Invoked-Function-Arn": call.function_arn,
        "Lambda-Runtime-Trace-Id": call.trace_id,
    }


def _refusal(kind: str, what: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": f"not expected: {what}"}).encode()
