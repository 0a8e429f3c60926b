"""`python -m marketdata.web.openapi`: write the OpenAPI document that ships with the library.

Made from the routes themselves, and only here: generating it costs a function more than a
second, so what is served is the file. A test fails when the file is not what this makes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler.openapi.models import (
    HTTPBearer,
    License,
    Server,
    Tag,
)

from marketdata.version import VERSION
from marketdata.web import api, control
from marketdata.web.document import DOCUMENT
from marketdata.web.resolver import make_resolver

_DESCRIPTION = """\
Crypto market data from several sources, normalised and loaded exactly once.

**Answers.** Every JSON answer carries `request_id` and `api_latency_ms`, and `run_id` where the
answer comes from a run. Numbers are finite; `null` means that the source does not say. Times are
UTC with milliseconds.

**Errors** have one form: `{"error": {"code", "message", "details"}, "request_id"}`. Parameters that
are unknown or malformed are a 400 that names them; nothing is ignored silently.

**Lists** continue with `pagination.next_cursor`. A walk along cursors returns every entry exactly
once, also with ties and while new entries arrive. A cursor keeps the filters and the order of its
list.

**Changing something** needs the bearer token from the stack's secret.
"""

_TAGS = {
    "data": "Normalised records.",
    "runs": "Runs of the pipeline and what they did.",
    "operations": "The health and the figures of the service.",
    "control": "Routes that change something; they need the token.",
    "documentation": "Descriptions of this API.",
}

_UNUSED_SCHEMAS = ("HTTPValidationError", "ResponseValidationError", "ValidationError")
"""Powertools' own error forms; this API has its own."""


def build() -> dict[str, Any]:
    """The document, from the routes of both functions."""
    resolver = make_resolver((*api.ROUTERS, *control.ROUTERS))
    text = resolver.get_openapi_json_schema(
        title="Kasparro ETL: market data",
        version=VERSION,
        openapi_version="3.1.0",
        description=_DESCRIPTION,
        servers=[Server(url="./", description="Where this document was served from.")],
        license_info=License(name="Apache-2.0", identifier="Apache-2.0"),
        tags=[Tag(name=name, description=text) for name, text in _TAGS.items()],
        security_schemes={
            "bearer": HTTPBearer(description="`refresh_token` of the stack's secret.")
        },
    )
    document: dict[str, Any] = json.loads(text)
    for name in _UNUSED_SCHEMAS:
        document["components"]["schemas"].pop(name, None)
    paths = sorted(document["paths"].items(), key=_place)
    document["paths"] = {path or "/": _operations(operations) for path, operations in paths}
    return document


def _place(item: tuple[str, dict[str, Any]]) -> tuple[int, int, str]:
    """Paths by tag, and within it those without parameters first."""
    path, operations = item
    tag = next(iter(operations.values()))["tags"][0]
    return list(_TAGS).index(tag), path.count("{"), path


def _operations(operations: dict[str, Any]) -> dict[str, Any]:
    for operation in operations.values():
        for parameter in operation.get("parameters", []):
            parameter["schema"] = _without_null(parameter["schema"])
        operation["responses"].pop("422", None)
        operation["responses"]["500"] = {
            "description": "A defect of this service.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return operations


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without null: a parameter is there or not, it can't be null."""
    options = [s for s in schema.get("anyOf", []) if s.get("type") != "null"]
    if len(options) != 1:
        return schema
    return {**options[0], **{k: v for k, v in schema.items() if k != "anyOf"}}


def render() -> str:
    """The document as the file has it."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the file; with `--check`, only say whether it is up to date (exit status 0 or 1)."""
    parser = argparse.ArgumentParser(prog="python -m marketdata.web.openapi")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    options = parser.parse_args(arguments)
    path = Path(__file__).with_name(DOCUMENT)
    made = render()
    if options.check:
        fresh = path.exists() and path.read_text("utf-8") == made
        if not fresh:
            sys.stderr.write(f"{path} is stale: run make openapi\n")
        return 0 if fresh else 1
    path.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
