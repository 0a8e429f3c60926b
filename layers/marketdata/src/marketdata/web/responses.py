"""How routes declare their answers in the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marketdata.web.models.common import Error

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse

_MEANINGS = {
    400: "A parameter or the body is unknown or malformed; the message names it.",
    401: "The bearer token is missing or wrong.",
    404: "Nothing has that name or id.",
    409: "It is not in the state that this needs.",
    500: "A defect of this service.",
    503: "A service behind the API does not answer; see `Retry-After`.",
}


def responses(success: str, *errors: int, status: int = 200) -> dict[int, OpenAPIResponse]:
    """The declared answers of a route.

    Args:
        success: what the answer of the declared return type means.
        errors: statuses of the errors beside 500 and 503, which every route can have.
        status: of success.
    """
    declared: dict[int, Any] = {status: {"description": success}}
    for code in sorted({*errors, 500, 503}):
        declared[code] = {
            "description": _MEANINGS[code],
            "content": {"application/json": {"model": Error}},
        }
    return declared
