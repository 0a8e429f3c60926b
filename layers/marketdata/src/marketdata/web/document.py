"""The OpenAPI document that ships with the library, and the table of routes it holds."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

DOCUMENT = "openapi.json"
_METHODS = frozenset({"get", "post", "put", "patch", "delete"})


@cache
def text() -> str:
    """The document as it is shipped."""
    return resources.files(__package__).joinpath(DOCUMENT).read_text("utf-8")


@cache
def document() -> dict[str, Any]:
    """The document, parsed."""
    parsed: dict[str, Any] = json.loads(text())
    return parsed


@cache
def _table() -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    """Each path as a pattern, with its methods; paths without parameters first."""
    paths = sorted(document()["paths"].items(), key=lambda item: item[0].count("{"))
    return tuple((_pattern(path), _methods(operations)) for path, operations in paths)


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{\w+\}", path.rstrip("/"))
    # No line break: Powertools overlooks one at the end, and would take /data/%0A for /data.
    return re.compile(r"[^/\n]+".join(re.escape(part) for part in parts) + "/*")


def _methods(operations: dict[str, Any]) -> tuple[str, ...]:
    methods = sorted(name.upper() for name in operations if name in _METHODS)
    return (*methods, "HEAD") if "GET" in methods else tuple(methods)


def allowed_methods(path: str) -> tuple[str, ...]:
    """The methods that a path takes, those of all functions; empty when there is no such path."""
    for pattern, methods in _table():
        if pattern.fullmatch(path):
            return methods
    return ()
