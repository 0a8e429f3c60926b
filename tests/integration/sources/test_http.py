"""One GET to a source, against a real server that misbehaves as a test says."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from marketdata import clock
from marketdata.errors import (
    MarketDataError,
    SettingsError,
    Throttled,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from marketdata.sources import http
from marketdata.sources.base import PageRequest, Validators
from marketdata.sources.http import Action, Limits, retry_after_seconds
from marketdata.sources.json_stream import elements
from marketdata.version import VERSION
from tests.support.upstream import Reply, Upstream, upstream

QUICK = Limits(connect_seconds=1, read_seconds=0.2, total_seconds=0.6, max_bytes=100_000)
KEY = "KEY-of-somebody"
ROWS = [{"id": "bitcoin", "price": 1.5}, {"id": "Ünï"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture
def session() -> Iterator[http.Session]:
    with http.Session() as opened:
        yield opened


def ask(
    server: Upstream, session: http.Session, reply: Reply, limits: Limits = QUICK, **options: Any
) -> tuple[http.Answer, bytes]:
    server.replies["/coins"] = reply
    request = PageRequest(1, server.url + "/coins", {"page": "1"}, {"x-key": KEY})
    with http.get(session, request, limits=limits, **options) as answer:
        return answer, b"".join(answer.chunks)


def test_an_answer_is_its_body_and_where_and_when_it_came_from(
    server: Upstream, session: http.Session
) -> None:
    before = clock.now()
    answer, body = ask(server, session, Reply(ROWS, headers={"ETag": '"abc"'}))
    assert json.loads(body) == ROWS
    assert (answer.url, answer.status) == (server.url + "/coins", 200)
    assert answer.validators == Validators('"abc"')
    assert answer.content_type == "application/json; charset=utf-8"
    assert before <= answer.received_at <= clock.now()


def test_parameters_and_headers_are_sent(server: Upstream, session: http.Session) -> None:
    ask(server, session, Reply(ROWS))
    seen = server.seen[-1]
    assert (seen.path, seen.query) == ("/coins", {"page": "1"})
    assert seen.headers["x-key"] == KEY
    assert seen.headers["Accept"] == "application/json"
    assert seen.headers["User-Agent"] == f"kasparro-etl/{VERSION}"


def test_a_compressed_body_is_unpacked(server: Upstream, session: http.Session) -> None:
    body = json.dumps(ROWS * 500).encode()
    for name, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        reply = Reply(packed, headers={"Content-Encoding": name})
        assert ask(server, session, reply)[1] == body


def test_a_compressed_body_is_measured_unpacked(server: Upstream, session: http.Session) -> None:
    reply = Reply(gzip.compress(b"[" + b" " * 200_000), headers={"Content-Encoding": "gzip"})
    with pytest.raises(UpstreamMalformed, match="more than 100000 bytes"):
        ask(server, session, reply)


def test_a_body_that_is_not_what_its_encoding_says(server: Upstream, session: http.Session) -> None:
    with pytest.raises(UpstreamUnavailable, match="broke off"):
        ask(server, session, Reply(b"[1, 2]", headers={"Content-Encoding": "gzip"}))


@pytest.mark.parametrize("status", [429, 402])
@pytest.mark.parametrize(("header", "seconds"), [("7", 7), (None, None), ("0", 1), ("soon", None)])
def test_a_source_that_asks_for_a_pause(
    server: Upstream, session: http.Session, status: int, header: str | None, seconds: float | None
) -> None:
    headers = {"Retry-After": header} if header else {}
    with pytest.raises(Throttled) as caught:
        ask(server, session, Reply({"error": "slow down"}, status=status, headers=headers))
    assert caught.value.retry_after_seconds == seconds
    assert str(status) in str(caught.value)
    assert "slow down" in str(caught.value.details["payload_head"])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 418, 500, 503, 520])
@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("2.5", 2.5)])
def test_a_pause_is_kept_whatever_the_status(
    server: Upstream, session: http.Session, status: int, header: str, seconds: float
) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        ask(server, session, Reply(status=status, headers={"Retry-After": header}))
    assert caught.value.retry_after_seconds == seconds
    assert str(status) in str(caught.value)


def test_a_pause_until_a_date_is_by_the_clock_that_gave_it(
    server: Upstream, session: http.Session
) -> None:
    # The scripted server tells its own date, and this machine's clock is an hour off.
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    reply = Reply(status=429, headers={"Retry-After": until})
    with pytest.raises(Throttled) as caught:
        ask(server, session, reply, now=lambda: datetime.now(UTC) + timedelta(hours=1))
    assert caught.value.retry_after_seconds is not None
    assert 25 < caught.value.retry_after_seconds <= 31


def test_a_pause_until_a_date_without_another_to_compare() -> None:
    headers = {"Retry-After": "Fri, 09 May 2025 06:02:00 GMT"}
    assert http.pause_of(headers, now=NOW) == 120
    assert http.pause_of(headers | {"Date": "Fri, 09 May 2025 06:01:00 GMT"}, now=NOW) == 60
    assert http.pause_of(headers | {"Date": "today"}, now=NOW) == 120


NOW = datetime(2025, 5, 9, 6, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("Fri, 09 May 2025 06:02:00 GMT", 120),
        ("Fri, 09 May 2025 08:02:00 +0200", 120),
        ("Fri, 09 May 2025 06:02:00 -0000", 120),
        ("Fri, 09 May 2025 05:00:00 GMT", 1),
        ("-5", None),
        ("1.5", 1.5),
        ("0.25", 0.25),
        ("0", 1),
        ("0.0", 1),
        ("90.", 90),
        (".5", 0.5),
        (".", None),
        ("1e3", None),
        ("٣", None),
        ("Fri, 99 May 2025 06:02:00 GMT", None),
        ("Fri, 09 May 2025 06:02:00 +99999999", None),
        ("", None),
        (None, None),
        ("9" * 400, 366 * 86_400),
        ("Fri, 09 May 9999 06:02:00 GMT", 366 * 86_400),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, now=NOW) == seconds


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 408, 425])
def test_a_server_s_own_fault_may_pass(
    server: Upstream, session: http.Session, status: int
) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        ask(server, session, Reply(b"<h1>Oops</h1>", status=status, content_type="text/html"))
    assert str(status) in str(caught.value)
    assert "Oops" in str(caught.value)
    assert server.url in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_refusal_stays_one(server: Upstream, session: http.Session, status: int) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        ask(server, session, Reply({"error": "no such coin"}, status=status))
    assert str(status) in str(caught.value)
    assert "no such coin" in str(caught.value)
    assert "KEY" not in str(caught.value)


def test_an_error_page_is_shown_by_its_beginning(server: Upstream, session: http.Session) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        ask(server, session, Reply(b"x" * 50_000, status=404))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_told_and_not_followed(
    server: Upstream, session: http.Session, status: int
) -> None:
    before = len(server.seen)
    location = "http://user:secret@other.example/secret/v2/coins?token=secret#secret"
    with pytest.raises(UpstreamRefused, match=r"http://other\.example/…/v2/coins\.") as caught:
        ask(server, session, Reply(status=status, headers={"Location": location}))
    assert "secret" not in str(caught.value)
    assert len(server.seen) == before + 1


@pytest.mark.parametrize("status", [301, 302, 303, 307])
def test_a_redirect_that_asks_for_a_pause_keeps_it(
    server: Upstream, session: http.Session, status: int
) -> None:
    headers = {"Location": f"http://other.example/coins?key={KEY}", "Retry-After": "90"}
    with pytest.raises(UpstreamUnavailable, match=r"redirects to http://other\.example/coins") as e:
        ask(server, session, Reply(status=status, headers=headers))
    assert e.value.retry_after_seconds == 90
    assert "asks for a pause of 90 s" in str(e.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<h1>Maintenance", content_type="text/html", headers={"Retry-After": "0.5"}),
        Reply({"error": "we are moving"}, headers={"Retry-After": ".5"}),
    ],
    ids=["for people", "an error in the body"],
)
def test_a_status_200_without_rows_keeps_its_pause(
    server: Upstream, session: http.Session, reply: Reply
) -> None:
    server.replies["/coins"] = reply
    with (
        pytest.raises(UpstreamUnavailable, match=r"asks for a pause of 0\.5 s") as caught,
        http.get(session, PageRequest(1, server.url + "/coins"), limits=QUICK) as answer,
    ):
        list(elements(answer.chunks, what="it"))
    assert caught.value.retry_after_seconds == 0.5


@pytest.mark.parametrize("location", ["/login?x=1", "http://[bad", "http://h:99999/", ""])
def test_a_redirect_to_anything_is_a_refusal(
    server: Upstream, session: http.Session, location: str
) -> None:
    with pytest.raises(UpstreamRefused, match="redirects"):
        ask(server, session, Reply(status=302, headers={"Location": location}))


def test_the_body_of_a_redirect_is_not_waited_for(server: Upstream, session: http.Session) -> None:
    began = time.monotonic()
    with pytest.raises(UpstreamRefused, match="redirects"):
        ask(
            server,
            session,
            Reply(b"x" * 400, status=302, headers={"Location": "/"}, drip_seconds=0.05),
        )
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("status", [204, 206])
def test_a_status_without_a_list_is_refused(
    server: Upstream, session: http.Session, status: int
) -> None:
    with pytest.raises(UpstreamRefused, match=str(status)):
        ask(server, session, Reply(status=status))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hang=True),
        Reply(b"[1, ", declared_length=100, stall=True),
        Reply(b"[" + b" " * 5000, drip_seconds=0.05),
        Reply(b"Oops" * 100, status=500, declared_length=1000, stall=True),
        Reply(b"Oops" * 100, status=503, drip_seconds=0.05),
    ],
    ids=["silent", "silent in the body", "drips", "error that stalls", "error that drips"],
)
def test_nothing_hangs(server: Upstream, session: http.Session, reply: Reply) -> None:
    began = time.monotonic()
    with pytest.raises(UpstreamUnavailable) as caught:
        ask(server, session, reply)
    assert time.monotonic() - began < 5
    assert server.url + "/coins" in str(caught.value)


def test_silence_is_told_with_its_limit(server: Upstream, session: http.Session) -> None:
    with pytest.raises(UpstreamUnavailable, match=r"did not answer within 0\.2 s"):
        ask(server, session, Reply(hang=True))


def test_dripping_is_told(server: Upstream, session: http.Session) -> None:
    with pytest.raises(UpstreamUnavailable, match="still sending after its time was up"):
        ask(server, session, Reply(b" " * 5000, drip_seconds=0.05))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n"
PATIENT = Limits(connect_seconds=1, read_seconds=30, total_seconds=0.6)


@pytest.mark.parametrize(
    ("beginning", "drips", "limits", "told"),
    [
        (HEAD + b"X-Long: ", b"x", QUICK, "the head of its answer"),
        (CHUNKED + b"5;x=", b"x", QUICK, r"\(1 bytes came\)"),
        (CHUNKED + b"5;x=", b"", PATIENT, r"\(1 bytes came\)"),
        (HEAD + b"Content-Length: 9\r\n\r\n[", b"", PATIENT, r"\(1 bytes came\)"),
        (HEAD + b"\r\n[", b"", PATIENT, r"\(1 bytes came\)"),
    ],
    ids=["head", "size of a chunk", "silent in chunks", "silent with a length", "silent"],
)
def test_an_answer_without_an_end_is_waited_for_until_its_time_is_up(
    session: http.Session, beginning: bytes, drips: bytes, limits: Limits, told: str
) -> None:
    """Each byte comes before the time of silence is over, or that is longer than all there is."""
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(beginning)
            while not ended.wait(0.05):
                connection.sendall(drips)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/coins"
        began = time.monotonic()
        try:
            with (
                pytest.raises(UpstreamUnavailable, match=f"still sending.*{told}"),
                http.get(session, PageRequest(1, url, {}, {}), limits=limits) as answer,
            ):
                list(answer.chunks)
            assert 0.5 < time.monotonic() - began < 3
        finally:
            ended.set()
            thread.join()


def test_a_transfer_that_is_cut_off(server: Upstream, session: http.Session) -> None:
    with pytest.raises(UpstreamUnavailable, match="broke off its answer after 6 bytes"):
        ask(server, session, Reply(b"[1, 2]", declared_length=100))


def test_an_answer_that_is_too_large(server: Upstream, session: http.Session) -> None:
    with pytest.raises(UpstreamMalformed, match="more than 100000 bytes"):
        ask(server, session, Reply(b"[" + b" " * 100_000))
    assert len(ask(server, session, Reply(b" " * 100_000))[1]) == 100_000


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain", "application/xml"])
def test_another_content_type_than_json_is_an_error(
    server: Upstream, session: http.Session, kind: str
) -> None:
    with pytest.raises(UpstreamMalformed, match="where JSON belongs") as caught:
        ask(server, session, Reply(b"<html>maintenance", content_type=kind))
    assert kind.partition(";")[0] in str(caught.value)
    assert caught.value.details["payload_head"] == "<html>maintenance"


@pytest.mark.parametrize("kind", ["Application/JSON", "text/json", "application/vnd.x+json", ""])
def test_content_types_of_json(server: Upstream, session: http.Session, kind: str) -> None:
    assert ask(server, session, Reply(ROWS, content_type=kind))[0].status == 200


def test_the_beginning_of_a_payload_is_kept_without_the_key(
    server: Upstream, session: http.Session
) -> None:
    said = f"You sent {KEY}. ".encode() + b"x" * 5000
    with pytest.raises(UpstreamRefused) as caught:
        ask(server, session, Reply(said, status=403))
    head = str(caught.value.details["payload_head"])
    assert head.startswith("You sent …. xxx")
    assert 1900 < len(head) <= 2048
    assert KEY not in str(caught.value)


ODD_KEY = "pass/wörd 'n\\\"+%41&<x>"
LONG = "0a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d"


def echoes(key: str) -> dict[str, Reply]:
    """Answers that repeat a key, each another way."""
    cut = f'{{"error": "{"x" * (199 - len('{"error": "') - len(key) // 2)}{key}"}}'
    return {
        "an error's body": Reply(f"invalid key {key}".encode(), status=401),
        "JSON": Reply({"error": f"invalid key {key}"}, status=403),
        "a server error": Reply({"error": f"no shard for {key}"}, status=500),
        "429": Reply({"error": f"{key} is over its quota"}, status=429),
        "status 200": Reply({"error": f"invalid key {key}"}),
        "status 200 that tells a status": Reply({"error": 429, "message": f"{key} asks too often"}),
        "an unknown object": Reply({"hello": {"key": key}}),
        "a long one, cut within the key": Reply(cut.encode()),
        "a head that is cut within the key": Reply(
            ("x" * (2048 - len(key) // 2) + key).encode(), status=400
        ),
        "encoded": Reply(quote(key, safe="").encode(), status=400),
        "encoded for a form": Reply(
            re.sub("%..", lambda code: code[0].lower(), quote_plus(key)).encode(), status=400
        ),
        "HTML": Reply(f"<p>{escape(key)}</p>".encode(), content_type="text/html"),
        "broken JSON": Reply(f"[{{}} {json.dumps(key)}]".encode()),
        "broken off": Reply(f"[{json.dumps(key)}, ".encode(), declared_length=9_999),
        "a type": Reply(b"", content_type=f"text/{key.encode().hex()}"),
        "a redirect": Reply(status=302, headers={"Location": f"/{quote(key)}/{quote(key)}?k=1"}),
    }


@pytest.mark.parametrize("how", echoes(LONG))
@pytest.mark.parametrize("place", ["header", "bearer", "parameter", "path", "password"])
@pytest.mark.parametrize("key", [LONG, ODD_KEY, "Sesame!"], ids=["long", "odd", "short"])
def test_a_key_that_an_answer_repeats_is_in_no_error(
    server: Upstream, session: http.Session, how: str, place: str, key: str
) -> None:
    reply = echoes(key)[how]
    quoted = quote(key, safe="")
    path = f"/{quoted}/coins" if place == "path" else "/coins"
    server.replies[path] = reply
    url = f"{server.url}{path}"
    headers = {}
    match place:
        case "header":
            headers = {"x-key": key.encode("utf-8").decode("latin-1")}
            key = headers["x-key"]
            server.replies[path] = echoes(key)[how]
        case "bearer":
            key = key.replace(" ", "").encode("utf-8").decode("latin-1")
            headers = {"Authorization": f"Bearer {key}"}
            server.replies[path] = echoes(key)[how]
        case "parameter":
            url += f"?api_key={quoted}"
        case "password":
            url = url.replace("http://", f"http://somebody:{quoted}@")
    with (
        pytest.raises(MarketDataError) as caught,
        http.get(session, PageRequest(1, url, {}, headers), limits=QUICK) as answer,
    ):
        list(elements(answer.chunks, what="it"))
    error: BaseException | None = caught.value
    while error is not None:
        said = f"{error} {error!r} {vars(error).get('details')}"
        for form in (key, quoted, repr(key)[1:-1], json.dumps(key)[1:-1], escape(key)):
            assert form not in said
            for part in (form[: len(form) // 2], form[-(len(form) // 2) :]):
                assert len(part) < 4 or part not in said
        error = error.__cause__


def test_what_was_read_before_an_error_is_kept(server: Upstream, session: http.Session) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        ask(server, session, Reply(b"[1, 2]", declared_length=100))
    assert caught.value.details["payload_head"] == "[1, 2]"
    server.replies["/coins"] = Reply(b'{"status": 1}')
    request = PageRequest(1, server.url + "/coins")
    with (
        pytest.raises(UpstreamMalformed) as malformed,
        http.get(session, request, limits=QUICK) as answer,
    ):
        list(elements(answer.chunks, what="it"))
    assert malformed.value.details["payload_head"] == '{"status": 1}'


def test_a_page_that_is_unchanged_has_no_body(server: Upstream, session: http.Session) -> None:
    known = Validators('"abc"', "Fri, 09 May 2025 06:00:00 GMT")
    answer, body = ask(server, session, Reply(status=304), known=known)
    assert (answer.not_modified, body) == (True, b"")
    headers = server.seen[-1].headers
    assert headers["If-None-Match"] == '"abc"'
    assert headers["If-Modified-Since"] == "Fri, 09 May 2025 06:00:00 GMT"
    # Nobody was asked whether it is unchanged here.
    with pytest.raises(UpstreamRefused, match="304"):
        ask(server, session, Reply(status=304), known=Validators())
    assert "If-None-Match" not in server.seen[-1].headers


def test_every_status_has_an_action_and_advice() -> None:
    actions = {status: http.policy_of(status).action for status in range(100, 600)}
    assert {s for s, a in actions.items() if a is Action.OK} == {200}
    assert {s for s, a in actions.items() if a is Action.NOT_MODIFIED} == {304}
    assert {s for s, a in actions.items() if a is Action.THROTTLED} == {402, 429}
    assert {s for s, a in actions.items() if a is Action.TRANSIENT} == {408, 425, *range(500, 600)}
    assert all(http.policy_of(s).advice for s in actions if s not in (200, 304))


def test_nobody_listens(session: http.Session) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/coins"
        request = PageRequest(1, url, {"secret": "KEY"})
        with (
            pytest.raises(UpstreamUnavailable, match="refused") as caught,
            http.get(session, request, limits=QUICK),
        ):
            pass
    assert "KEY" not in str(caught.value)


def test_an_unknown_host_is_named(session: http.Session) -> None:
    request = PageRequest(1, "http://nowhere.invalid/coins", {"secret": "KEY"})
    with (
        pytest.raises(UpstreamUnavailable, match=r"nowhere\.invalid") as caught,
        http.get(session, request, limits=QUICK),
    ):
        pass
    assert "KEY" not in str(caught.value)


@pytest.mark.parametrize("key", ["SECRET\nX-Other: 1", " SECRET", "SECRET ключ"])
def test_a_key_that_is_no_header_is_not_repeated(
    server: Upstream, session: http.Session, key: str
) -> None:
    request = PageRequest(1, server.url + "/coins", {}, {"Authorization": key})
    with pytest.raises(SettingsError, match="secret") as caught, http.get(session, request):
        pass
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h:99999999/", "http://[bad/", "http:///coins"])
def test_an_address_that_is_none(session: http.Session, url: str) -> None:
    with pytest.raises(SettingsError, match="address"), http.get(session, PageRequest(1, url)):
        pass


def test_limits_within_the_time_that_is_left() -> None:
    assert Limits().within(1000) == Limits()
    assert Limits().within(10) == Limits(3, 10, 10)
    assert Limits().within(-3) == Limits(1, 1, 1)
