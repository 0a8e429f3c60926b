"""API Gateway in front of the API's two functions, in this process.

It makes the events that API Gateway's REST proxy integration makes, and routes them as the
template does: POST to `control`, everything else to `api`.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4
from wsgiref.types import StartResponse, WSGIEnvironment

from marketdata.store.connection import Store
from marketdata.web import api, control
from marketdata.web.application import Application
from marketdata.web.auth import bearer
from marketdata.web.resolver import make_resolver
from marketdata.web.services import Services

STAGE = "test"
TOKEN = "a-token-of-tests"


class Context:
    """What a handler is told of its invocation."""

    function_name = "marketdata-test-api"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:marketdata-test-api"

    def __init__(self) -> None:
        self.aws_request_id = str(uuid4())

    def get_remaining_time_in_millis(self) -> int:
        return 29_000


@dataclass
class Reply:
    """An answer as a client gets it."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def event(
    method: str,
    path: str,
    *,
    query: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
) -> dict[str, Any]:
    """An event as API Gateway delivers it; what is empty is null there."""
    multi: dict[str, list[str]] = {}
    for name, value in query:
        multi.setdefault(name, []).append(value)
    headers = dict(headers or {})
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers or None,
        "multiValueHeaders": {k: [v] for k, v in headers.items()} or None,
        "queryStringParameters": {k: v[-1] for k, v in multi.items()} or None,
        "multiValueQueryStringParameters": multi or None,
        "pathParameters": {"proxy": path.lstrip("/")} if path != "/" else None,
        "stageVariables": None,
        "requestContext": {
            "requestId": str(uuid4()),
            "stage": STAGE,
            "path": f"/{STAGE}{path}",
            "httpMethod": method,
            "identity": {"sourceIp": "127.0.0.1"},
        },
        "body": body,
        "isBase64Encoded": False,
    }


class WorkflowStarter:
    """Stands in for Step Functions: it remembers what was started, or fails as it is told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, Mapping[str, Any]]] = []
        self.failure: Exception | None = None

    def start(self, run_id: str, execution_input: Mapping[str, Any]) -> str:
        if self.failure is not None:
            raise self.failure
        self.started.append((run_id, execution_input))
        return f"arn:aws:states:us-east-1:000000000000:execution:test:{run_id}"


@dataclass
class Gateway:
    """Both functions behind one address; callable as a WSGI application."""

    api: Application
    control: Application
    token: str

    def call(self, made: dict[str, Any]) -> Reply:
        """Deliver an event."""
        changes = made["httpMethod"] in ("POST", "DELETE")
        function = self.control if changes else self.api
        answer = function(made, Context())  # type: ignore[arg-type]
        body = answer["body"] or ""
        if answer["isBase64Encoded"]:
            body = b64decode(body).decode()
        headers = {k: ", ".join(v) for k, v in answer["multiValueHeaders"].items()}
        return Reply(answer["statusCode"], headers, body)

    def get(self, path: str, *pairs: tuple[str, str], **query: object) -> Reply:
        """GET with query parameters."""
        given = [*pairs, *((k, str(v)) for k, v in query.items() if v is not None)]
        return self.call(event("GET", path, query=given))

    def post(self, path: str, body: object = None, *, token: str | None = None) -> Reply:
        """POST a JSON body with the token, or with another one; an empty token sends none."""
        token = self.token if token is None else token
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        return self.call(event("POST", path, headers=headers, body=text))

    def delete(self, path: str, *, token: str | None = None) -> Reply:
        """DELETE with the token, or with another one."""
        token = self.token if token is None else token
        return self.call(event("DELETE", path, headers={"Authorization": f"Bearer {token}"}))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = {
            name[5:].replace("_", "-").title(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        if environ.get("CONTENT_TYPE"):
            headers["Content-Type"] = environ["CONTENT_TYPE"]
        size = int(environ.get("CONTENT_LENGTH") or 0)
        raw = environ["wsgi.input"].read(size) if size else b""
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace") or "/"
        made = event(
            environ["REQUEST_METHOD"],
            path,
            query=query,
            headers=headers,
            body=raw.decode("utf-8", "replace") if raw else None,
        )
        reply = self.call(made)
        start_response(
            f"{reply.status} answered",
            [(k, v) for k, v in reply.headers.items()],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.text.encode()]


def make_gateway(
    store: Callable[[], Store],
    *,
    token: str = TOKEN,
    engine: WorkflowStarter | None = None,
    allow_origin: str = "",
    sources: Sequence[str] = ("coingecko",),
    **services: Any,
) -> Gateway:
    """Both functions over a store, as their composition makes them but for AWS."""
    engine = engine or WorkflowStarter()
    given = Services(store=store, engine=lambda: engine, sources=sources, **services)
    return Gateway(
        Application(make_resolver(api.ROUTERS), given, allow_origin=allow_origin),
        Application(
            make_resolver(control.ROUTERS),
            given,
            authorise=bearer(lambda: token),
            allow_origin=allow_origin,
        ),
        token,
    )


def ok(answer: Reply, status: int = 200) -> dict[str, Any]:
    """The body of an answer that has this status."""
    assert answer.status == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


def walk(gateway: Gateway, path: str, *, only_cursor: bool = False, **query: Any) -> list[Any]:
    """All entries of a list, along its cursors."""
    body = ok(gateway.get(path, **query))
    found: list[Any] = body["data"]
    while body["pagination"]["has_more"]:
        cursor = body["pagination"]["next_cursor"]
        again = {"limit": query.get("limit")} if only_cursor else query
        body = ok(gateway.get(path, **again, cursor=cursor))
        found += body["data"]
    assert body["pagination"]["next_cursor"] is None
    return found
