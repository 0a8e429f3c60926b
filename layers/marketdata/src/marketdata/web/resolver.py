"""The resolver behind each function of the API."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response, content_types
from aws_lambda_powertools.event_handler.api_gateway import Router
from aws_lambda_powertools.event_handler.middlewares import NextMiddleware

from marketdata.errors import InvalidInput
from marketdata.web.problems import problem
from marketdata.web.services import Call


def make_resolver(routers: Iterable[Router]) -> APIGatewayRestResolver:
    """A resolver over these routers, with validation both ways and the errors' one map.

    The request's `Call` must be in the context under `call`; `Application` puts it there.
    """
    resolver = APIGatewayRestResolver(
        enable_validation=True,
        response_validation_error_http_code=HTTPStatus.INTERNAL_SERVER_ERROR,
        debug=False,
    )
    resolver.use(middlewares=[_complete, _refuse_unknown_parameters])

    def answer(error: Exception) -> Response[dict[str, Any]]:
        call: Call = resolver.context["call"]
        return problem_response(error, call)

    resolver.exception_handler(Exception)(answer)
    for router in routers:
        resolver.include_router(router)
    return resolver


def problem_response(error: Exception, call: Call) -> Response[dict[str, Any]]:
    """The answer to a request that ended in this error; the call remembers it for the log."""
    found = problem(error)
    call.outcome.error = error
    call.outcome.problem = found
    return Response(
        status_code=found.status,
        content_type=content_types.APPLICATION_JSON,
        body=found.body(call.request_id, call.latency_ms()),
        headers=found.headers,
    )


def _complete(app: APIGatewayRestResolver, next_middleware: NextMiddleware) -> Response[Any]:
    """Put into a JSON answer what every one of them has."""
    response = next_middleware(app)
    if isinstance(response.body, dict) and "request_id" in response.body:
        call: Call = app.context["call"]
        # Taken out and put in again: they come last, after what was asked for.
        for name in ("request_id", "api_latency_ms"):
            response.body.pop(name, None)
        response.body["request_id"] = call.request_id
        response.body["api_latency_ms"] = call.latency_ms()
    return response


def _refuse_unknown_parameters(
    app: APIGatewayRestResolver, next_middleware: NextMiddleware
) -> Response[Any]:
    """A parameter that is not known is a typing error that would otherwise go unnoticed."""
    known = {field.alias for field in app.context["_route"].dependant.query_params}
    given = app.current_event.resolved_query_string_parameters
    if unknown := sorted(set(given) - known):
        names = [name[:80] for name in unknown]
        allowed = f"Allowed are: {', '.join(sorted(known))}." if known else "None is allowed."
        raise InvalidInput(
            f"Unknown query parameter {', '.join(map(repr, names))}. {allowed}",
            faults=[
                {"in": "query", "name": name, "message": f"is unknown. {allowed}"} for name in names
            ],
        )
    return next_middleware(app)
