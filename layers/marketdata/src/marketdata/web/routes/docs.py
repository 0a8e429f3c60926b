"""What describes the API: an index of its routes, and the OpenAPI document."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

from aws_lambda_powertools.event_handler import Request, Response, content_types
from aws_lambda_powertools.event_handler.openapi.params import Path

from marketdata.errors import NotFound
from marketdata.web import document
from marketdata.web.models.docs import Index
from marketdata.web.responses import responses
from marketdata.web.routing import new_router

router = new_router()

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{up}docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="swagger-ui" data-document="{up}openapi.json"></div>
<script src="{up}docs/swagger-ui.js"></script>
<script src="{up}docs/start.js"></script>
</body>
</html>
"""

_START = """\
const element = document.getElementById("swagger-ui");
SwaggerUIBundle({
  url: new URL(element.dataset.document, document.baseURI).href,
  domNode: element,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
});
"""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Everything from here: the page works without the internet."""


@router.get(
    "/",
    summary="Index of routes",
    description="An index of the routes.",
    responses=responses("The index."),
    tags=["documentation"],
    operation_id="getIndex",
)
def get_index() -> Index:
    """The routes with their summaries, from the OpenAPI document."""
    described = document.document()
    return Index.model_validate(
        {
            "name": described["info"]["title"],
            "version": described["info"]["version"],
            "documentation": "docs",
            "routes": [
                {
                    "method": method.upper(),
                    "path": path.lstrip("/"),
                    "summary": operation["summary"],
                }
                for path, operations in described["paths"].items()
                for method, operation in operations.items()
            ],
        }
    )


@router.get(
    "/openapi.json",
    summary="This API as an OpenAPI document",
    description="One document for all routes.",
    responses={
        200: {
            "description": "The document.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
    tags=["documentation"],
    operation_id="getOpenapi",
)
def get_openapi() -> Response[str]:
    """The shipped document, byte by byte."""
    return Response(
        status_code=200,
        content_type=content_types.APPLICATION_JSON,
        body=document.text(),
        headers={"Cache-Control": "public, max-age=300"},
    )


@router.get(
    "/docs",
    summary="This API in a browser",
    description="Swagger UI, served from here.",
    responses={200: {"description": "The page.", "content": {"text/html": {}}}},
    tags=["documentation"],
    operation_id="getDocs",
)
@router.get(
    "/api-docs",
    summary="This API in a browser, under its other name",
    description="The same as `/docs`.",
    responses={200: {"description": "The page.", "content": {"text/html": {}}}},
    tags=["documentation"],
    operation_id="getApiDocs",
)
def get_docs(request: Request) -> Response[str]:
    """The page. Its links are relative, as the stage before the path is API Gateway's affair."""
    path: str = request.resolved_event.path
    return Response(
        status_code=200,
        content_type="text/html; charset=utf-8",
        body=_PAGE.format(
            title=document.document()["info"]["title"],
            up="../" * (path.count("/") - 1),
        ),
        headers={"Content-Security-Policy": _POLICY, "Cache-Control": "public, max-age=300"},
    )


@router.get(
    "/docs/<asset>",
    summary="A file of that page",
    description="Scripts and styles of `/docs`.",
    responses=responses("", 404)
    | {
        200: {
            "description": "The file.",
            "content": {"text/javascript": {}, "text/css": {}},
        }
    },
    tags=["documentation"],
    operation_id="getDocsAsset",
)
def get_asset(
    asset: Annotated[str, Path(description="Its name.", examples=["swagger-ui.js"])],
) -> Response[str]:
    """A file; Swagger UI's own come with Powertools."""
    files = resources.files("aws_lambda_powertools.event_handler.openapi.swagger_ui")
    shipped = {
        "swagger-ui.js": "swagger-ui-bundle.min.js",
        "swagger-ui.css": "swagger-ui.min.css",
    }
    if asset == "start.js":
        body = _START
    elif asset in shipped:
        body = files.joinpath(shipped[asset]).read_text("utf-8")
    else:
        raise NotFound(f"There is no file {asset[:80]!r} here.")
    return Response(
        status_code=200,
        content_type=f"text/{'css' if asset.endswith('.css') else 'javascript'}; charset=utf-8",
        body=body,
        headers={"Cache-Control": "public, max-age=86400"},
    )
