"""The routers that routes are declared on."""

from __future__ import annotations

from aws_lambda_powertools.event_handler.api_gateway import Router


def new_router() -> Router:
    """A router without routes."""
    return Router()  # type: ignore[no-untyped-call]
