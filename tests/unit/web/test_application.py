"""What every request goes through, without a database."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, NoReturn

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from marketdata.errors import SettingsError, StateConflict, StoreUnavailable, TransientError
from marketdata.store.connection import Store, connect
from marketdata.web import document
from marketdata.web.application import MAX_BODY_BYTES
from marketdata.web.routes import health
from tests.support.gateway import TOKEN, Context, Gateway, event, make_gateway


def no_store() -> NoReturn:
    raise AssertionError("this request must not reach the database")


@pytest.fixture
def gateway() -> Gateway:
    return make_gateway(no_store)


def failing(error: Exception) -> Gateway:
    def store() -> Store:
        raise error

    return make_gateway(store)


def assert_error(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The one form of errors."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error", "request_id", "api_latency_ms"}
    assert set(body["error"]) == {"code", "message", "details"}
    if status == 400:
        assert set(body["error"]["details"]) == {"faults"}
        for fault in body["error"]["details"]["faults"]:
            assert set(fault) == {"in", "name", "message"}
            assert fault["in"] in ("query", "path", "body", "request")
            assert all(fault.values())
    assert body["error"]["code"] == code
    assert body["request_id"]
    return body


@pytest.mark.parametrize(
    "path", ["/nothing", "/data/x/y", "//data", "/Data", "/data;x", "/$where", "/é", "/data/\n"]
)
def test_an_unknown_route_is_a_404(gateway: Gateway, path: str) -> None:
    body = assert_error(gateway.get(path), 404, "unknown_route")
    assert path in body["error"]["message"]
    assert_error(gateway.post(path, token=""), 404, "unknown_route")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/data", "GET, HEAD"),
        ("DELETE", "/runs/x", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
        ("OPTIONS", "/health", "GET, HEAD"),
        ("GET", "/refresh", "POST"),
        ("HEAD", "/refresh", "POST"),
        ("PATCH", "/uploads", "GET, POST, HEAD"),
    ],
)
def test_another_method_is_a_405_that_names_the_right_ones(
    gateway: Gateway, method: str, path: str, allow: str
) -> None:
    answer = gateway.call(event(method, path))
    assert answer.status == 405
    assert answer.headers["Allow"] == allow
    if method != "HEAD":
        assert_error(answer, 405, "method_not_allowed")


def test_head_is_get_without_the_body(gateway: Gateway) -> None:
    answer = gateway.call(event("HEAD", "/openapi.json"))
    assert (answer.status, answer.text) == (200, "")
    assert answer.headers["Content-Type"] == "application/json"


def test_a_slash_at_the_end_changes_nothing(gateway: Gateway) -> None:
    assert gateway.get("/openapi.json/").status == 200


def test_answers_carry_the_request_id_and_the_latency(gateway: Gateway) -> None:
    made = event("GET", "/")
    body = gateway.call(made).json()
    assert body["request_id"] == made["requestContext"]["requestId"]
    assert 0 < body["api_latency_ms"] < 60_000
    assert list(body)[-2:] == ["request_id", "api_latency_ms"]


def test_answers_are_not_sniffed_or_cached(gateway: Gateway) -> None:
    for answer in (gateway.get("/"), gateway.get("/nothing")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/data", [("limit", "0")], "limit"),
        ("/data", [("limit", "1001")], "limit"),
        ("/data", [("limit", "ten")], "limit"),
        ("/data", [("limit", "")], "limit"),
        ("/data", [("limit", "1"), ("limit", "2")], "limit"),
        ("/data", [("page", "0")], "page"),
        ("/data", [("page", "1001")], "page"),
        ("/data", [("sortBy", "nothing:asc")], "sortBy"),
        ("/data", [("sortBy", "price_usd:up")], "sortBy"),
        ("/data", [("sortBy", "$where:asc")], "sortBy"),
        ("/data", [("sortBy", "price_usd:")], "sortBy"),
        ("/data", [("sortBy", "")], "sortBy"),
        ("/data", [("sort_by", "row")], "sort_by"),
        ("/data", [("sort_dir", "up")], "sort_dir"),
        ("/data", [("symbol", "")], "symbol"),
        ("/data", [("source", "")], "source"),
        ("/data", [("source", "a"), ("source", "b")], "source"),
        ("/data", [("start", "x")], "start"),
        ("/data", [("end", "1")], "end"),
        ("/data", [("cursor", "???")], "cursor"),
        ("/data", [("cursor", "abcd")], "cursor"),
        ("/runs", [("status", "done")], "status"),
        ("/runs", [("trigger", "$ne")], "trigger"),
        ("/runs", [("trigger", "bogus")], "trigger"),
        ("/runs", [("cursor", "W10")], "cursor"),
        ("/latest", [("cursor", "W10")], "cursor"),
        ("/symbols", [("cursor", "W10")], "cursor"),
        ("/quarantine", [("reason", "{$gt:1}")], "reason"),
        ("/quarantine", [("run_id", "a b")], "run_id"),
        ("/quarantine", [("cursor", "W10")], "cursor"),
    ],
)
def test_a_malformed_parameter_is_a_400_that_names_it(
    gateway: Gateway, path: str, query: list[tuple[str, str]], named: str
) -> None:
    body = assert_error(gateway.get(path, *query), 400, "invalid_input")
    assert body["error"]["message"].startswith(f"{named}: ")
    assert [fault["name"] for fault in body["error"]["details"]["faults"]] == [named]


@pytest.mark.parametrize(
    "path",
    ["/data/xyz", f"/data/{'0' * 39}", "/data/xyz/history", "/runs/\x00",
     f"/runs/{'x' * 200}", "/runs/\ud800"],
)  # fmt: skip
def test_an_id_that_can_be_none_is_a_404(gateway: Gateway, path: str) -> None:
    answer = gateway.get(path)
    assert answer.status == 404
    assert answer.json()["error"]["code"] in ("not_found", "unknown_route")


@pytest.mark.parametrize("path", ["/data", "/runs", "/latest", "/symbols", "/quarantine"])
def test_a_cursor_that_was_not_given_out_leads_nowhere(gateway: Gateway, path: str) -> None:
    body = assert_error(gateway.get(path, cursor="abcdefgh.00000000"), 404, "unknown_cursor")
    assert body["error"]["message"].startswith("cursor: ")


@pytest.mark.parametrize(
    "path", ["/", "/data", "/health", "/runs", "/runs/x", "/stats", "/openapi.json", "/docs"]
)
@pytest.mark.parametrize("name", ["nothing", "limit[$gt]", "$where", "Limit"])
def test_an_unknown_parameter_is_a_400_that_lists_those_there_are(
    gateway: Gateway, path: str, name: str
) -> None:
    body = assert_error(gateway.get(path, (name, "1")), 400, "invalid_input")
    assert repr(name) in body["error"]["message"]
    (fault,) = body["error"]["details"]["faults"]
    assert (fault["in"], fault["name"]) == ("query", name)
    assert (" limit," in fault["message"]) == (path in ("/data", "/runs"))


@pytest.mark.parametrize(
    ("path", "query", "told"),
    [
        ("/data", [("symbol", f"S{n}") for n in range(21)],
         "symbol: is given 21 times; at most 20 are taken"),
        ("/data", [("limit", "1"), ("limit", "2")], "limit: is given 2 times; give it once"),
        ("/data", [("cursor", "x")], "cursor: is no cursor; take `next_cursor`"),
        ("/quarantine", [("reason", "A B")], "reason: is no reason: those consist of"),
        ("/quarantine", [("run_id", "a b")], "run_id: is no id of a run: "),
        ("/runs", [("trigger", "bogus")], "'upload', 'replay' or 'backfill'"),
    ],
)  # fmt: skip
def test_messages_are_for_people(
    gateway: Gateway, path: str, query: list[tuple[str, str]], told: str
) -> None:
    message = assert_error(gateway.get(path, *query), 400, "invalid_input")["error"]["message"]
    assert told in message
    assert "^" not in message


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"filename": "prices.xls"}, "filename: is no name for an upload: it begins with"),
        ({"filename": "a.csv", "dataset": "a b"}, "dataset: is no name of a dataset: it begins"),
    ],
)
def test_messages_about_uploads_are_for_people(
    gateway: Gateway, body: dict[str, str], told: str
) -> None:
    error = assert_error(gateway.post("/uploads", body), 400, "invalid_input")["error"]
    assert error["message"].startswith(told)
    assert "^" not in error["message"]


@pytest.mark.parametrize(
    ("authorization", "told"),
    [
        (None, "needs the header"),
        ("", "needs the header"),
        ("Bearer", "not valid"),
        ("Bearer ", "not valid"),
        (TOKEN, "not valid"),
        (f"Basic {TOKEN}", "not valid"),
        (f"Bearer {TOKEN}x", "not valid"),
        (f"Bearer {TOKEN[:-1]}", "not valid"),
        ("Bearer t\xf6ken", "not valid"),
        ("Bearer \ud800", "not valid"),
    ],
)
@pytest.mark.parametrize("path", ["/refresh", "/uploads"])
def test_posts_need_the_token_before_anything_else(
    gateway: Gateway, path: str, authorization: str | None, told: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = gateway.call(event("POST", path, headers=headers, body="{"))
    body = assert_error(answer, 401, "unauthorized")
    assert told in body["error"]["message"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_without_a_token_in_the_secret_nobody_gets_through() -> None:
    gateway = make_gateway(no_store, token="")
    for token in ("", "anything"):
        body = assert_error(gateway.post("/refresh", token=token or None), 503, "settings")
        assert "refresh_token" in body["error"]["message"]


def test_the_scheme_of_the_token_is_case_insensitive() -> None:
    gateway = failing(StoreUnavailable("no"))
    headers = {"authorization": f"bearer {TOKEN}"}
    assert gateway.call(event("POST", "/refresh", headers=headers)).status == 503


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{", "not valid JSON"),
        ("\r", "not valid JSON"),
        ("[]", "a list"),
        ('"x"', "a text"),
        ("true", "true or false"),
        ("null", "must be a JSON object"),
        ("1", "must be a JSON object"),
        ('{"a": NaN}', "not valid JSON"),
        ("[" * 200_000, "bytes"),
        ("[" * 60_000, "nested"),
        ('{"a": ' + "9" * 5_000 + "}", "not valid JSON"),
        ('{"a": "' + "x" * MAX_BODY_BYTES + '"}', "bytes"),
        ('{"nothing": 1}', "nothing: "),
    ],
)
@pytest.mark.parametrize("path", ["/refresh", "/uploads"])
def test_a_malformed_body_is_a_400(gateway: Gateway, path: str, body: str, told: str) -> None:
    found = assert_error(gateway.post(path, body), 400, "invalid_input")
    assert told in found["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "a/b; c=d"])
def test_a_body_of_another_type_is_a_400(gateway: Gateway, kind: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
    answer = gateway.call(event("POST", "/refresh", headers=headers, body="{}"))
    body = assert_error(answer, 400, "invalid_input")
    assert "must be application/json" in body["error"]["message"]


def test_no_body_needs_no_type() -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}
    gateway = failing(StoreUnavailable("reached"))
    for body in (None, ""):
        assert gateway.call(event("POST", "/refresh", headers=headers, body=body)).status == 503


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"{"])
def test_a_body_in_base64_is_read(gateway: Gateway, raw: bytes) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    made = event("POST", "/refresh", headers=headers, body=b64encode(raw).decode())
    assert_error(gateway.call(made | {"isBase64Encoded": True}), 400, "invalid_input")
    assert_error(gateway.call(made | {"isBase64Encoded": True, "body": "%"}), 400, "invalid_input")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filename": "prices.xls"},
        {"filename": "../prices.csv"},
        {"filename": "a/b.csv"},
        {"filename": ".csv"},
        {"filename": "prices.csv\n"},
        {"filename": 5},
        {"filename": None},
        {"filename": {"$gt": ""}},
        {"filename": "prices.csv", "size": 0},
        {"filename": "prices.csv", "size": "many"},
        {"filename": "prices.csv", "size": 10**15},
        {"filename": "prices.csv", "dataset": "a b"},
        {"filename": "prices.csv", "dataset": ""},
        {"filename": "prices.csv", "more": 1},
    ],
)
def test_an_upload_that_is_not_wanted_is_a_400(gateway: Gateway, body: object) -> None:
    assert_error(gateway.post("/uploads", body), 400, "invalid_input")


SECRETS = "mongodb://user:password@host-7.internal:27017 arn:aws:secretsmanager:1:2"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreUnavailable(SECRETS), 503, "store_unavailable"),
        (TransientError(SECRETS), 503, "transient"),
        (SettingsError(SECRETS), 500, "settings"),
        (ServerSelectionTimeoutError(SECRETS), 500, "internal"),
        (ZeroDivisionError(SECRETS), 500, "internal"),
    ],
)
def test_what_is_behind_the_api_is_logged_and_not_told(
    error: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = failing(error)
    for answer in (gateway.get("/data"), gateway.get("/stats"), gateway.post("/refresh")):
        body = assert_error(answer, status, code)
        for part in SECRETS.split():
            assert part not in answer.text
        if status == 503:
            assert answer.headers["Retry-After"] == "5"
        (logged,) = [r for r in caplog.records if vars(r)["request_id"] == body["request_id"]]
        told = vars(logged).get("error") or (logged.exc_info or ("", ""))[1]
        assert "host-7.internal" in str(told)


def test_a_conflict_is_a_409() -> None:
    gateway = failing(StateConflict("It has ended.", run_id="x"))
    body = assert_error(gateway.get("/runs/x"), 409, "state_conflict")
    assert body["error"] == {
        "code": "state_conflict",
        "message": "It has ended.",
        "details": {"run_id": "x"},
    }


def test_an_answer_of_another_form_is_a_500(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"info": {"title": "x", "version": "1"}, "paths": {"/": {"get": {"summary": 1}}}}
    monkeypatch.setattr(document, "document", lambda: broken)
    assert_error(gateway.get("/"), 500, "internal")


def test_an_event_without_anything_is_answered(gateway: Gateway) -> None:
    answer = gateway.api({"httpMethod": "GET", "path": None}, Context())  # type: ignore[arg-type]
    assert answer["statusCode"] == 200
    answer = gateway.api({}, Context())  # type: ignore[arg-type]
    assert answer["statusCode"] == 405


def test_browsers_of_other_origins_are_let_in_where_that_is_set(gateway: Gateway) -> None:
    assert "Access-Control-Allow-Origin" not in gateway.get("/").headers
    opened = make_gateway(no_store, allow_origin="https://example.org")
    for answer in (opened.get("/"), opened.get("/nothing"), opened.post("/refresh", token="")):
        assert answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
        assert answer.headers["Vary"] == "Origin"
    asked = opened.call(event("OPTIONS", "/refresh"))
    assert asked.status == 204
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]


def test_health_says_that_the_database_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PING_SECONDS", 0.1)
    dead = connect("mongodb://127.0.0.1:1/?directConnection=true", "x", server_selection_ms=50)
    answer = make_gateway(lambda: dead).get("/health")
    body = answer.json()
    assert answer.status == 503
    assert body["status"] == "down"
    assert body["mongodb"]["status"] == "down"
    assert body["api"] == {"status": "ok"}
    assert "127.0.0.1" not in answer.text
    dead.client.close()


def test_the_page_of_the_documentation_needs_nothing_from_elsewhere(gateway: Gateway) -> None:
    for path, up in (("/docs", ""), ("/docs/", "../"), ("/api-docs", ""), ("/api-docs/", "../")):
        page = gateway.get(path)
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert "//" not in page.text.replace("<!DOCTYPE", "")
        assert f'src="{up}docs/swagger-ui.js"' in page.text
        assert f'data-document="{up}openapi.json"' in page.text
    for name, kind, part in (
        ("swagger-ui.js", "text/javascript", "SwaggerUIBundle"),
        ("swagger-ui.css", "text/css", ".swagger-ui"),
        ("start.js", "text/javascript", "SwaggerUIBundle("),
    ):
        asset = gateway.get(f"/docs/{name}")
        assert asset.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert part in asset.text
    assert_error(gateway.get("/docs/other.js"), 404, "not_found")
