"""The document that ships, the routes, and what importing them costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from marketdata.web import api, control, document, openapi
from marketdata.web.resolver import make_resolver

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"boto3", "botocore.client", "requests", "rapidfuzz", "tenacity", "aws_xray_sdk"}
"""What no read of the API needs."""


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return document.document()


def test_the_document_is_what_the_routes_make() -> None:
    assert document.text() == openapi.render(), "run: make openapi"
    assert openapi.main(["--check"]) == 0


def test_the_document_in_docs_is_the_one_that_ships() -> None:
    assert (ROOT / "docs" / "openapi.json").read_text("utf-8") == document.text()


def test_api_reads_and_control_changes(shipped: dict[str, Any]) -> None:
    found: set[tuple[str, str]] = set()
    for module in (api, control):
        resolver = make_resolver(module.ROUTERS)
        routes = resolver._static_routes + resolver._dynamic_routes
        allowed = {"GET"} if module is api else {"POST", "DELETE"}
        assert {route.method for route in routes} == allowed
        found |= {(route.openapi_path or "/", route.method.lower()) for route in routes}
    assert found == {
        (path, method) for path, methods in shipped["paths"].items() for method in methods
    }


def test_every_route_is_described(shipped: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in shipped["tags"]}
    for path, operations in shipped["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert operation["description"], path
            assert set(operation["tags"]) <= tags, path
            changes = method in ("post", "delete")
            assert operation.get("security") == ([{"bearer": []}] if changes else None)
            assert "422" not in operation["responses"], path
            assert operation["responses"]["500"]["content"]["application/json"]["schema"] == {
                "$ref": "#/components/schemas/Error"
            }
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (path, parameter["name"])


def test_every_reference_leads_somewhere(shipped: dict[str, Any]) -> None:
    text = json.dumps(shipped)
    for name in set(re.findall(r'"#/components/schemas/(\w+)"', text)):
        assert name in shipped["components"]["schemas"]
    for name in shipped["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is not used"


def test_examples_are_valid(shipped: dict[str, Any]) -> None:
    seen = 0

    def check(schema: Any) -> None:
        nonlocal seen
        if isinstance(schema, dict):
            for example in schema.get("examples", []) if "type" in schema else []:
                validator = jsonschema_rs.validator_for(
                    {**schema, "components": shipped["components"]}
                )
                validator.validate(example)
                seen += 1
            for value in schema.values():
                check(value)
        elif isinstance(schema, list):
            for value in schema:
                check(value)

    check(shipped["components"])
    check(shipped["paths"])
    assert seen > 40


def test_what_every_answer_carries_is_required(shipped: dict[str, Any]) -> None:
    schemas = shipped["components"]["schemas"]
    for operations in shipped["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
                    if name:
                        assert {"request_id", "api_latency_ms"} <= set(schemas[name]["required"])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", ("GET", "HEAD")),
        ("/data", ("GET", "HEAD")),
        ("/data/", ("GET", "HEAD")),
        ("/data/abc/history", ("GET", "HEAD")),
        ("/refresh", ("POST",)),
        ("/data/abc/other", ()),
        ("", ("GET", "HEAD")),
        ("x", ()),
    ],
)
def test_the_table_of_routes(path: str, methods: tuple[str, ...]) -> None:
    assert document.allowed_methods(path) == methods


@pytest.mark.parametrize(("module", "made"), [("api", "make_api"), ("control", "make_control")])
def test_a_function_imports_only_what_it_needs_to_start(module: str, made: str) -> None:
    code = (
        f"import sys; from marketdata.web.{module} import {made}; {made}(); "
        "print(' '.join(sys.modules))"
    )
    environment = {"STATE_MACHINE_ARN": "arn:aws:states:us-east-1:1:stateMachine:x", "PATH": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert not HEAVY & set(found.stdout.split())
