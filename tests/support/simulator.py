"""An upstream that misbehaves as told: a process of its own that plays CoinGecko and CoinPaprika.

    with running_simulator() as upstream:
        upstream.set("/coingecko", kind="coingecko", coins=1000, faults=["503", "reset"])

What it answers is a function of the route, the hour that it is set to, and the page: however
often a page is asked for, the answer is the same. It enforces quotas, and keeps a record of every
request with its time, so that a test can tell from the upstream's side what was asked and when.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import ceil
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local.processes import MARKER
from local.settings import ROOT
from tests.support.mongod import state_folder

CONTROL, RECORD = "/_control", "/_record"
FIRST_HOUR = datetime(2025, 5, 1, tzinfo=UTC)
PER_PAGE = 250
STALL_SECONDS = 600.0
"""Longer than anybody waits; the simulator's end cuts it short."""

FAULTS = (
    "503",  # a server error, in HTML as gateways send it
    "429",  # too many requests, with the pause in seconds
    "429-date",  # the same with the pause as an HTTP date
    "402",  # the quota of a free plan is used up
    "reset",  # the connection is reset before an answer
    "reset-body",  # and in the middle of it
    "truncated",  # the transfer ends early, in good order
    "cut-json",  # a complete transfer of half a JSON text
    "shape",  # valid JSON of another shape
    "html",  # status 200 with a page for people
    "slow",  # a pause of a second in the middle of the body
    "stall",  # silence in the middle of the body
    "silence",  # no answer at all
)

type Row = dict[str, Any]


@dataclass
class Quota:
    """Requests that are answered within any span of so many seconds; 429 for those beyond."""

    requests: int
    seconds: float


@dataclass
class Route:
    """One resource and how it behaves."""

    kind: str = "coingecko"
    coins: int = PER_PAGE
    hour: int = 0
    quota: Quota | None = None
    faults: list[str] = field(default_factory=list)
    """What happens to the next requests, one after the other; "ok" for nothing."""
    often: float = 0
    """Probability that a request beyond those meets one of `any_of`."""
    any_of: list[str] = field(default_factory=list)
    seed: int = 0
    delay: float = 0
    """Seconds before every answer."""
    pause: float = 1
    """Seconds that 429 and 402 ask for when they come by script."""


@dataclass(frozen=True)
class RunRequest:
    """One request as the upstream saw it."""

    at: float
    """Seconds since the epoch, when its head had been read."""
    path: str
    page: int
    hour: int
    outcome: str
    """"ok", "quota", "unchanged" (304), or the fault that it met."""


# --- what it answers ----------------------------------------------------------------------


def _figure(*parts: object) -> float:
    """A number between 0 and 1 that follows from its parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def coin(number: int, hour: int) -> Row:
    """What is known of a coin in an hour.

    Every fifth says something else about the same moment each hour, every seventh says the same
    for ever, and the others are quoted anew each hour. One of a hundred is listed twice, and one
    has a price that is none. (A coin that is listed twice with two prices would have a history
    that depends on how often its page was received, and rightly so.)
    """
    if number % 100 == 42:
        number -= 1
    said_in = 0 if number % 7 == 0 else hour
    moment = 0 if number % 5 == 0 or number % 7 == 0 else hour
    price = round(0.5 + 1000 * _figure("price", number, said_in), 4)
    return {
        "id": f"coin-{number}",
        "symbol": f"c{number % 400}",
        "name": f"Coin {number}",
        "rank": number + 1,
        "price": -1 if number % 100 == 77 else price,
        "volume": round(1e6 * _figure("volume", number, said_in), 2),
        "market_cap": round(1e9 * _figure("cap", number, said_in)),
        "change": round(10 * _figure("change", number, said_in) - 5, 5),
        "moment": FIRST_HOUR + timedelta(hours=moment, seconds=number % 60),
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def markets_row(known: Row) -> Row:
    """A coin as CoinGecko's `/coins/markets` tells it."""
    return {
        "id": known["id"],
        "symbol": known["symbol"],
        "name": known["name"],
        "image": f"https://images.example/{known['id']}.png",
        "current_price": known["price"],
        "market_cap": known["market_cap"],
        "market_cap_rank": known["rank"],
        "total_volume": known["volume"],
        "price_change_percentage_24h": known["change"],
        "roi": None,
        "last_updated": _stamp(known["moment"]),
    }


def tickers_row(known: Row) -> Row:
    """A coin as CoinPaprika's `/tickers` tells it."""
    return {
        "id": f"{known['symbol']}-{known['id']}",
        "name": known["name"],
        "symbol": known["symbol"].upper(),
        "rank": known["rank"],
        "total_supply": 0,
        "last_updated": _stamp(known["moment"]),
        "quotes": {
            "USD": {
                "price": known["price"],
                "volume_24h": known["volume"],
                "market_cap": known["market_cap"],
                "percent_change_24h": known["change"],
            }
        },
    }


def page_of(route: Route, query: Mapping[str, str]) -> list[Row]:
    """The rows of the page that a query asks for."""
    if route.kind == "coinpaprika":
        return [tickers_row(coin(n, route.hour)) for n in range(route.coins)]
    size, page = int(query.get("per_page", PER_PAGE)), int(query.get("page", 1))
    numbers = range(route.coins)[(page - 1) * size : page * size]
    return [markets_row(coin(n, route.hour)) for n in numbers]


# --- the server ---------------------------------------------------------------------------


class _State:
    """Routes and the record, shared by the threads that answer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.routes: dict[str, Route] = {}
        self.chances: dict[str, random.Random] = {}
        self.answered: dict[str, deque[float]] = {}
        self.record: list[RunRequest] = []
        self.released = threading.Event()
        """Set to let go of whoever waits in a stall."""

    def control(self, given: Mapping[str, Any]) -> None:
        with self.lock:
            if given.get("release"):
                self.released.set()
                self.released = threading.Event()
            if "path" not in given:
                return
            path, changes = given["path"], dict(given["route"])
            route = self.routes.setdefault(path, Route())
            if "quota" in changes:
                changes["quota"] = Quota(**changes["quota"]) if changes["quota"] else None
                self.answered.pop(path, None)
            known = {each.name for each in fields(Route)}
            if unknown := changes.keys() - known:
                raise ValueError(f"a route has no {', '.join(unknown)}")
            vars(route).update(changes)
            if "seed" in changes:
                self.chances[path] = random.Random(route.seed)

    def decide(self, path: str, page: int, known_etag: str) -> tuple[str, Route, float]:
        """What becomes of a request: the outcome, the route as it is now, and a pause."""
        with self.lock:
            now = time.time()
            route = self.routes[path]
            frozen = Route(**{each.name: getattr(route, each.name) for each in fields(Route)})
            pause, outcome = frozen.pause, "ok"
            times = self.answered.setdefault(path, deque())
            if quota := route.quota:
                while times and times[0] <= now - quota.seconds:
                    times.popleft()
                if len(times) >= quota.requests:
                    outcome, pause = "quota", times[0] + quota.seconds - now
            if outcome == "ok":
                times.append(now)
                if route.faults:
                    outcome = route.faults.pop(0)
                elif route.often:
                    chance = self.chances.setdefault(path, random.Random(route.seed))
                    if chance.random() < route.often:
                        outcome = chance.choice(route.any_of or FAULTS)
            if outcome == "ok" and known_etag and known_etag == etag_of(path, frozen, page):
                outcome = "unchanged"
            self.record.append(RunRequest(now, path, page, route.hour, outcome))
            return outcome, frozen, pause


def etag_of(path: str, route: Route, page: int) -> str:
    """The validator of a page in an hour."""
    return f'"{path.strip("/")}-{route.coins}-{route.hour}-{page}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.state.control(given)
        except (ValueError, TypeError) as error:
            self._send(HTTPStatus.BAD_REQUEST, str(error).encode())
            return
        self._send(HTTPStatus.OK, b"{}")

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path == RECORD:
            with self.state.lock:
                told = [vars(asked) for asked in self.state.record]
            self._send(HTTPStatus.OK, json.dumps(told).encode())
        elif parts.path in self.state.routes:
            self._answer(parts.path, query)
        else:
            self._send(HTTPStatus.NOT_FOUND, b'{"error": "no such route"}')

    def _answer(self, path: str, query: Mapping[str, str]) -> None:
        page = int(query.get("page", 1))
        known = self.headers.get("If-None-Match", "")
        outcome, route, pause = self.state.decide(path, page, known)
        if route.delay:
            self.state.released.wait(route.delay)
        etag = {"ETag": etag_of(path, route, page)}
        match outcome:
            case "unchanged":
                self._send(HTTPStatus.NOT_MODIFIED, b"", **etag)
            case "503":
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"<html>503</html>", kind="text/html")
            case "429" | "429-date" | "402" | "quota":
                self._refuse(outcome, pause)
            case "reset":
                self._reset()
            case "silence":
                self._stall()
            case "html":
                self._send(HTTPStatus.OK, b"<html>maintenance</html>", kind="text/html")
            case "shape":
                self._send(HTTPStatus.OK, b'{"status": {"error_code": 1006}}')
            case _:
                body = json.dumps(page_of(route, query)).encode()
                self._send_body(outcome, body, etag)

    def _refuse(self, outcome: str, pause: float) -> None:
        status = HTTPStatus.PAYMENT_REQUIRED if outcome == "402" else HTTPStatus.TOO_MANY_REQUESTS
        until = datetime.now(UTC) + timedelta(seconds=ceil(pause) + 1)
        told = format_datetime(until, usegmt=True) if outcome == "429-date" else str(ceil(pause))
        self._send(status, b'{"error": "too many requests"}', **{"Retry-After": told})

    def _send_body(self, outcome: str, body: bytes, headers: Mapping[str, str]) -> None:
        half = len(body) // 2
        if outcome == "cut-json":
            self._send(HTTPStatus.OK, body[:half])
            return
        self._head(HTTPStatus.OK, len(body), "application/json", **headers)
        if outcome == "ok":
            self.wfile.write(body)
            return
        self.wfile.write(body[:half])
        self.wfile.flush()
        match outcome:
            case "reset-body":
                self._reset()
            case "truncated":
                self.close_connection = True
            case "stall":
                self._stall()
            case "slow":
                self.state.released.wait(1)
                self.wfile.write(body[half:])
            case _:
                raise ValueError(f"there is no fault {outcome!r}")

    def _stall(self) -> None:
        self.state.released.wait(STALL_SECONDS)
        self.close_connection = True

    def _reset(self) -> None:
        # Closing with no time to linger sends a reset instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str = "application/json", **headers: str
    ) -> None:
        self._head(status, len(body), kind, **headers)
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, length: int, kind: str, **headers: str) -> None:
        self.send_response(status)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        # Who asked was killed, or has given up: that is what many tests are on.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: Any) -> None:
        # The usual way ends in good order first, which a reset is not.
        if struct.unpack("ii", request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]:
            self.close_request(request)
        else:
            super().shutdown_request(request)


def main() -> None:
    """Serve until terminated; the port is the first line of the output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    _Handler.state = _State()
    with _Server(("127.0.0.1", port), _Handler) as server:
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever(0.02)


# --- for tests ----------------------------------------------------------------------------


class Simulator:
    """A running simulator, seen from a test."""

    def __init__(self, url: str) -> None:
        self.url = url

    def set(self, path: str, **changes: Any) -> None:
        """Change a route, or make one; see `Route` for what there is to set."""
        self._post({"path": path, "route": changes})

    def release(self) -> None:
        """Let go of whoever is being stalled."""
        self._post({"release": True})

    def record(self, path: str | None = None) -> list[RunRequest]:
        """All requests so far, or those of one route, in the order of their arrival."""
        with urllib.request.urlopen(self.url + RECORD, timeout=10) as answer:  # noqa: S310
            asked = [RunRequest(**each) for each in json.load(answer)]
        return sorted((a for a in asked if path in (None, a.path)), key=lambda a: a.at)

    def outcomes(self, path: str | None = None) -> Counter[str]:
        """How often each outcome was met."""
        return Counter(asked.outcome for asked in self.record(path))

    def _post(self, given: Mapping[str, Any]) -> None:
        body = json.dumps(given, default=vars).encode()
        request = urllib.request.Request(self.url + CONTROL, body, method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            return


def most_within(seconds: float, times: Iterable[float]) -> int:
    """The most of these moments that fall into any span of so many seconds."""
    ordered: Sequence[float] = sorted(times)
    most = first = 0
    for last, time_ in enumerate(ordered):
        while ordered[first] <= time_ - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@contextmanager
def running_simulator() -> Iterator[Simulator]:
    """Start a simulator on a free port, and end it in every case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.simulator"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        # By this, what a killed session leaves is found and ended.
        env={**os.environ, MARKER: str(state_folder() / "simulator")},
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield Simulator(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


if __name__ == "__main__":
    main()
