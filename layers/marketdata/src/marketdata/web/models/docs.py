"""Form of the index."""

from __future__ import annotations

from pydantic import Field

from marketdata.web.models.common import Answer, Form


class RouteEntry(Form):
    """One route."""

    method: str = Field(examples=["GET"])
    path: str = Field(description="Relative to this route.", examples=["data"])
    summary: str = Field(examples=["Records"])


class Index(Answer):
    """What the API offers."""

    name: str
    version: str
    documentation: str = Field(description="Where the Swagger UI is, relative to this route.")
    routes: list[RouteEntry]
