"""Errors that are told with status 200, in place of rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.sources.error_bodies import ErrorBody, read_error

ERRORS: list[tuple[Any, ErrorBody]] = [
    (
        {"status": {"error_code": 429, "error_message": "Slow down"}},
        ErrorBody(429, None, "Slow down"),
    ),
    ({"status": {"error_code": "429"}}, ErrorBody(429, None, "")),
    (
        {"error": {"status": {"error_code": 10002, "error_message": "API Key Missing"}}},
        ErrorBody(None, 10002, "API Key Missing"),
    ),
    ({"status": {"error_code": 1015}}, ErrorBody(429, 1015, "")),
    ({"status": {"error_code": 1020}}, ErrorBody(None, 1020, "")),
    ({"error": "id not found"}, ErrorBody(None, None, "id not found")),
    ({"error": "Too Many Requests"}, ErrorBody(429, None, "Too Many Requests")),
    ({"error": "Rate limit exceeded"}, ErrorBody(429, None, "Rate limit exceeded")),
    ({"error": "Internal Server Error"}, ErrorBody(503, None, "Internal Server Error")),
    ({"code": 503, "message": "busy"}, ErrorBody(503, None, "busy")),
    ({"status": 404, "error": "Not Found"}, ErrorBody(404, None, "Not Found")),
    ({"errors": [{"status": "500", "title": "Oops"}]}, ErrorBody(500, None, "Oops")),
    ({"statusCode": 403, "message": "Forbidden"}, ErrorBody(403, None, "Forbidden")),
    ({"error": 429}, ErrorBody(429, None, "")),
    ({"error": "503"}, ErrorBody(503, None, "503")),
    ({"error": 1015}, ErrorBody(429, 1015, "")),
    ({"error": 7}, ErrorBody(None, 7, "")),
    ({"error": True}, ErrorBody(None, None, "")),
    ({"errors": ["no such page"]}, ErrorBody(None, None, "no such page")),
    ({"errors": ["", "Too many requests"]}, ErrorBody(429, None, "Too many requests")),
    ({"errors": [429]}, ErrorBody(429, None, "")),
    ({"errors": "no such page"}, ErrorBody(None, None, "no such page")),
    ({"errors": [{"message": "no such page"}]}, ErrorBody(None, None, "no such page")),
    ({"errors": [{"message": "x", "code": "RATE_LIMITED"}]}, ErrorBody(429, None, "x")),
    ({"errors": {"page": ["must be lower"]}}, ErrorBody(None, None, "must be lower")),
    ({"data": None, "errors": [{"message": "timeout"}]}, ErrorBody(503, None, "timeout")),
    ({"error": None, "status": 500}, ErrorBody(500, None, "")),
]
NONE: list[Any] = [
    {},
    {"data": []},
    {"code": 200, "data": [{"id": 1}]},
    {"status": {"error_code": 0, "error_message": None}, "data": []},
    {"status": "ok", "result": []},
    {"error": None, "data": [{"id": 1}]},
    {"error": None, "message": "OK", "data": []},
    {"error": "", "data": []},
    {"error": 0, "message": "done"},
    {"error": False, "message": "done"},
    {"error": {}, "data": []},
    {"error": {"code": 0, "message": ""}, "data": []},
    {"errors": [], "data": []},
    {"errors": [None, ""], "message": "fine"},
    {"errors": None, "meta": {"title": "All coins"}, "data": []},
    {"code": 200, "message": "OK", "data": []},
    {"status": {"error_code": "0", "error_message": ""}, "message": "fine"},
    [],
    [{"error": "of a row"}],
    None,
    7,
]


@pytest.mark.parametrize(("body", "told"), ERRORS, ids=[json.dumps(e[0])[:50] for e in ERRORS])
def test_an_error_is_known_in_any_of_its_forms(body: Any, told: ErrorBody) -> None:
    assert read_error(json.dumps(body)) == told


@pytest.mark.parametrize("body", NONE, ids=lambda body: json.dumps(body)[:50])
def test_what_tells_no_error_is_none(body: Any) -> None:
    assert read_error(json.dumps(body)) is None


@pytest.mark.parametrize("text", ["", "{", "<html>", '{"error": "cut of', "[" * 100_000])
def test_what_is_no_json_is_none(text: str) -> None:
    assert read_error(text) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["status", "error", "errors", "code", "error_code", "message"]),
                inner,
            )
            | st.lists(inner)
        ),
    )
)
def test_any_value_is_read(body: Any) -> None:
    told = read_error(json.dumps(body))
    assert told is None or told.status is None or 400 <= told.status < 600
