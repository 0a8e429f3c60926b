"""The server: two resources, each at the path that the real API has it at.

Add a source's resource to ``ROUTES`` under the path of its public address, and the local stack uses
it wherever that address cannot be reached.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from local.replay.samples import Row, coingecko_markets, coinpaprika_tickers

HEALTH_PATH = "/health"
LARGEST_PAGE = 250

Query = dict[str, str]


class BadQueryError(Exception):
    """The query is one that the real API refuses."""


@dataclass(frozen=True)
class Answer:
    """What a resource answers with status 200."""

    body: bytes
    etag: str


def _as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _whole_number(query: Query, name: str, default: int, largest: int | None = None) -> int:
    try:
        value = int(query.get(name, default))
    except ValueError:
        raise BadQueryError(f"{name} must be a whole number") from None
    if value < 1:
        raise BadQueryError(f"{name} must be at least 1")
    return value if largest is None else min(value, largest)


_ORDERS: dict[str, tuple[Callable[[Row], float | str], bool]] = {
    "market_cap_desc": (lambda row: row["market_cap"], True),
    "market_cap_asc": (lambda row: row["market_cap"], False),
    "volume_desc": (lambda row: row["total_volume"] or 0, True),
    "volume_asc": (lambda row: row["total_volume"] or 0, False),
    "id_asc": (lambda row: row["id"], False),
    "id_desc": (lambda row: row["id"], True),
}


def markets(query: Query) -> list[Row]:
    """CoinGecko's ``/coins/markets``, in usd, with ``order``, ``per_page``, ``page`` and ``ids``.

    Raises:
        BadQueryError: a parameter is missing or malformed.
    """
    currency = query.get("vs_currency")
    if currency is None:
        raise BadQueryError("Missing parameter vs_currency")
    if currency.lower() != "usd":
        raise BadQueryError("the samples are in usd only")
    order = query.get("order", "market_cap_desc")
    if order not in _ORDERS:
        raise BadQueryError(f"order must be one of {', '.join(_ORDERS)}")
    per_page = _whole_number(query, "per_page", 100, LARGEST_PAGE)
    page = _whole_number(query, "page", 1)
    wanted = set(query["ids"].split(",")) if query.get("ids") else None
    rows = [row for row in coingecko_markets() if wanted is None or row["id"] in wanted]
    key, descending = _ORDERS[order]
    rows.sort(key=key, reverse=descending)
    return rows[(page - 1) * per_page : page * per_page]


def tickers(query: Query) -> list[Row]:
    """CoinPaprika's ``/v1/tickers``: ``quotes`` (only USD).

    Raises:
        BadQueryError: another currency is asked for.
    """
    if query.get("quotes", "USD").upper() != "USD":
        raise BadQueryError("the samples are in USD only")
    return list(coinpaprika_tickers())


ROUTES: dict[str, Callable[[Query], list[Row]]] = {
    "/api/v3/coins/markets": markets,
    "/v1/tickers": tickers,
}


def answer(path: str, query: Query) -> Answer | None:
    """Return what is at a path, or None when nothing is.

    Raises:
        BadQueryError: the query is malformed.
    """
    route = ROUTES.get(path)
    if route is None:
        return None
    body = _as_json(route(query))
    return Answer(body, f'W/"{hashlib.sha256(body).hexdigest()[:32]}"')


class Handler(BaseHTTPRequestHandler):
    """Answers GET; conditional requests get 304 while nothing has changed, which it never does."""

    protocol_version = "HTTP/1.1"
    server_version = "replay"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        """Answer one request."""
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path == HEALTH_PATH:
            self._send(HTTPStatus.OK, _as_json({"status": "ok", "paths": sorted(ROUTES)}))
            return
        try:
            found = answer(parts.path, query)
        except BadQueryError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, _as_json({"error": str(error)}))
            return
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, _as_json({"error": f"nothing at {parts.path}"}))
        elif found.etag in self.headers.get("If-None-Match", ""):
            self._send(HTTPStatus.NOT_MODIFIED, b"", found.etag)
        else:
            self._send(HTTPStatus.OK, found.body, found.etag)

    def _send(self, status: HTTPStatus, body: bytes, etag: str | None = None) -> None:
        self.send_response(status)
        if etag is not None:
            self.send_header("ETag", etag)
            self.send_header("Cache-Control", "public, max-age=0, must-revalidate")
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class ReplayServer(ThreadingHTTPServer):
    """Serves each request in a thread of its own."""

    daemon_threads = True
    allow_reuse_address = True
