"""A Lambda handler for API Gateway's REST events: what every request goes through.

Routes see only requests that exist, may be made and have a readable body; clients see only
answers of the API's one form, whatever went wrong on the way.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

from marketdata.errors import InvalidInput
from marketdata.logs import make_logger
from marketdata.web import document
from marketdata.web.problems import MethodNotAllowed, UnknownRoute
from marketdata.web.resolver import problem_response
from marketdata.web.services import Call, Services

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler import APIGatewayRestResolver
    from aws_lambda_powertools.utilities.typing import LambdaContext

type Event = dict[str, Any]
type Answer = dict[str, Any]
type Authorise = Callable[[Mapping[str, str]], None]

MAX_BODY_BYTES = 64 * 1024
MAX_PREVIEW_BODY_BYTES = 2 * 1024 * 1024
"""A file of 1 MB, in base64 or with its line ends escaped."""
_MAX_SHOWN_PATH = 200

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Set where the route did not say otherwise."""


class Application:
    """One function of the API, as Lambda calls it."""

    def __init__(
        self,
        resolver: APIGatewayRestResolver,
        services: Services,
        *,
        authorise: Authorise | None = None,
        allow_origin: str = "",
    ) -> None:
        """Compose a function.

        Args:
            resolver: the routes, as `make_resolver` gives them.
            services: what they need.
            authorise: raises for a request, by its headers (names in lower case), that may
                not be made; None lets everybody through.
            allow_origin: the origin whose pages may call the API from a browser, or `*`;
                empty allows none.
        """
        self._resolver = resolver
        self._services = services
        self._authorise = authorise
        self._allow_origin = allow_origin
        self._log = make_logger()

    def __call__(self, event: Event, context: LambdaContext) -> Answer:
        """Answer one request; nothing is ever raised."""
        about = event.get("requestContext") or {}
        request_id = str(about.get("requestId") or getattr(context, "aws_request_id", ""))
        names = [self._services.stack_id, str(about.get("apiId") or "")]
        call = Call(self._services, request_id, " ".join(filter(None, names)))
        method = str(event.get("httpMethod") or "").upper()
        path = str(event.get("path") or "/")
        try:
            answer = self._answer(event, context, call, method, path)
        except Exception as error:  # noqa: BLE001 - the last resort of all requests
            answer = self._refusal(error, call)
        self._finish(answer, method)
        self._report(call, method, path, answer["statusCode"])
        return answer

    def _answer(
        self, event: Event, context: LambdaContext, call: Call, method: str, path: str
    ) -> Answer:
        if method == "OPTIONS" and self._allow_origin:
            return {"statusCode": 204, "body": "", "isBase64Encoded": False}
        allowed = document.allowed_methods(path)
        if not allowed:
            raise UnknownRoute(
                f"There is no {path[:_MAX_SHOWN_PATH]}. GET / lists what there is.",
            )
        if method not in allowed:
            raise MethodNotAllowed(method, path[:_MAX_SHOWN_PATH], allowed)
        headers = {str(k).lower(): str(v) for k, v in (event.get("headers") or {}).items()}
        if self._authorise is not None:
            self._authorise(headers)
        body: Event = {}
        if method == "POST":
            body = {"body": _body(event, headers), "isBase64Encoded": False}
            headers["content-type"] = "application/json"
        # API Gateway writes null where there is nothing.
        request = {
            **event,
            "path": path,
            "httpMethod": "GET" if method == "HEAD" else method,
            "headers": headers,
            "multiValueHeaders": {k: [v] for k, v in headers.items()},
            "requestContext": {"stage": "", "path": path, **(event.get("requestContext") or {})},
            **body,
        }
        self._resolver.append_context(call=call)  # type: ignore[no-untyped-call]
        return self._resolver.resolve(request, context)

    def _refusal(self, error: Exception, call: Call) -> Answer:
        response = problem_response(error, call)
        return {
            "statusCode": response.status_code,
            "multiValueHeaders": {name: [value] for name, value in response.headers.items()},
            "body": json.dumps(response.body),
            "isBase64Encoded": False,
        }

    def _finish(self, answer: Answer, method: str) -> None:
        headers: dict[str, list[str]] = answer.setdefault("multiValueHeaders", {})
        for name, value in _HEADERS.items():
            headers.setdefault(name, [value])
        if self._allow_origin:
            headers["Access-Control-Allow-Origin"] = [self._allow_origin]
            headers["Access-Control-Allow-Methods"] = ["GET, POST, DELETE"]
            headers["Access-Control-Allow-Headers"] = ["Authorization, Content-Type"]
            headers["Access-Control-Max-Age"] = ["86400"]
            if self._allow_origin != "*":
                headers["Vary"] = ["Origin"]
        if method == "HEAD":
            answer |= {"body": "", "isBase64Encoded": False}

    def _report(self, call: Call, method: str, path: str, status: int) -> None:
        fields: dict[str, Any] = {
            "request_id": call.request_id,
            "method": method,
            "path": path[:_MAX_SHOWN_PATH],
            "status": status,
            "latency_ms": call.latency_ms(),
        }
        error, found = call.outcome.error, call.outcome.problem
        if error is None or found is None:
            self._log.info("answered", **fields)
        elif found.defect:
            self._log.error("failed", exc_info=error, **fields)
        elif found.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            # What is behind the API is named here and nowhere else.
            self._log.warning("failed", code=found.code, error=str(error), **fields)
        else:
            self._log.info("refused", code=found.code, error=found.message, **fields)


def _body(event: Event, headers: Mapping[str, str]) -> str:
    """The body of a POST: the text of a JSON object; a missing one counts as `{}`.

    Raises:
        InvalidInput: says what it is instead.
    """
    text = event.get("body") or ""
    if event.get("isBase64Encoded"):
        try:
            text = b64decode(text, validate=True).decode("utf-8")
        except ValueError:
            raise _bad_body("The body is not UTF-8 text.") from None
    if not text:
        return "{}"
    size = len(text.encode("utf-8", "surrogatepass"))
    previewed = str(event.get("path", "")).rstrip("/").endswith("/csv/preview")
    most = MAX_PREVIEW_BODY_BYTES if previewed else MAX_BODY_BYTES
    if size > most:
        raise _bad_body(f"The body has {size} bytes; {most} are allowed.")
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise _bad_body(
            f"The body's Content-Type is {media_type[:100]!r}; it must be application/json."
        )
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _bad_body(f"The body is not valid JSON: {reason[:200]}.") from None
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "true or false"}.get(type(value), "no object")
        raise _bad_body(f"The body must be a JSON object; it is {kind}.")
    return text


def _bad_body(message: str) -> InvalidInput:
    return InvalidInput(message, faults=[{"in": "body", "name": "body", "message": message}])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
