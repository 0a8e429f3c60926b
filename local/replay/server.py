"""The server: the present and the past of two APIs, each at the path that the real one has it at.

Add a source's resource to ``ROUTES`` under the path of its public address, and the local stack uses
it wherever that address cannot be reached.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from local.replay import history
from local.replay.quota import Quota
from local.replay.samples import Row, coingecko_markets, coinpaprika_tickers

HEALTH_PATH = "/health"
LARGEST_PAGE = 250

Query = dict[str, str]


class BadQueryError(Exception):
    """The query is one that the real API refuses."""


class RefusedError(Exception):
    """The real API would answer with this error."""

    def __init__(self, status: HTTPStatus, body: Row) -> None:
        super().__init__(status.phrase)
        self.status = status
        self.body = body


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


def chart(coin_id: str, query: Query, now: datetime) -> Row:
    """CoinGecko's ``/coins/{id}/market_chart/range``, in usd, with ``from`` and ``to``.

    Raises:
        BadQueryError: a parameter is missing or malformed.
        RefusedError: there is no such coin, or the range is older than the free plan gives.
    """
    if query.get("vs_currency", "").lower() != "usd":
        raise BadQueryError("vs_currency must be usd: the samples are in nothing else")
    start, end = _time(query, "from"), _time(query, "to")
    if start < now - timedelta(days=history.PLAN_DAYS):
        raise RefusedError(
            HTTPStatus.UNAUTHORIZED,
            {
                "error": {
                    "status": {
                        "timestamp": now.isoformat(timespec="milliseconds"),
                        "error_code": 10012,
                        "error_message": "Your request exceeds the allowed time range. Public API "
                        "users are limited to querying historical data within the past 365 days.",
                    }
                }
            },
        )
    found = history.market_chart(coin_id, start, end, now)
    if found is None:
        raise RefusedError(HTTPStatus.NOT_FOUND, {"error": "coin not found"})
    return found


def historical(coin_id: str, query: Query, now: datetime) -> list[Row]:
    """CoinPaprika's ``/v1/tickers/{id}/historical``: ``start``, ``end``, ``interval``, ``limit``.

    Raises:
        BadQueryError: a parameter is missing or malformed.
        RefusedError: there is no such coin, or the range is older than the free plan gives.
    """
    if query.get("quote", "usd").lower() != "usd":
        raise BadQueryError("the samples are in usd only")
    interval = query.get("interval", "5m")
    step = history.INTERVALS.get(interval)
    if step is None:
        raise BadQueryError(f"interval must be one of {', '.join(history.INTERVALS)}")
    start, end = _time(query, "start"), _time(query, "end", now)
    limit = _whole_number(query, "limit", 1_000, history.MAX_TICKS)
    oldest = now - timedelta(days=history.plan_days(step))
    if start < oldest:
        raise RefusedError(
            HTTPStatus.PAYMENT_REQUIRED,
            {
                "error": f"Getting historical data of {interval} before {oldest.isoformat()} is "
                "not allowed in this plan."
            },
        )
    found = history.ticks(coin_id, start, end, step, limit, now)
    if found is None:
        raise RefusedError(HTTPStatus.NOT_FOUND, {"error": "id not found"})
    return found


COIN_ROUTES: dict[re.Pattern[str], Callable[[str, Query, datetime], object]] = {
    re.compile("/api/v3/coins/([^/]+)/market_chart/range"): chart,
    re.compile("/v1/tickers/([^/]+)/historical"): historical,
}
"""Resources of one coin, whose id is the group."""


def _time(query: Query, name: str, default: datetime | None = None) -> datetime:
    """Read seconds since 1970, or ISO 8601."""
    text = query.get(name)
    if text is None:
        if default is None:
            raise BadQueryError(f"Missing parameter {name}")
        return default
    try:
        if text.isdecimal():
            return datetime.fromtimestamp(int(text), UTC)
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise BadQueryError(f"{name} must be a time") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def answer(path: str, query: Query, now: datetime | None = None) -> Answer | None:
    """Return what is at a path, or None when nothing is.

    Args:
        path: as it was asked for, percent-encoded.
        query: its parameters.
        now: what the past ends with; by default the present.

    Raises:
        BadQueryError: the query is malformed.
        RefusedError: the real API would answer with an error.
    """
    found = _found(path, query, now or datetime.now(UTC))
    if found is None:
        return None
    body = _as_json(found)
    return Answer(body, f'W/"{hashlib.sha256(body).hexdigest()[:32]}"')


def _found(path: str, query: Query, now: datetime) -> object:
    route = ROUTES.get(path)
    if route is not None:
        return route(query)
    for pattern, of_coin in COIN_ROUTES.items():
        if match := pattern.fullmatch(path):
            return of_coin(unquote(match[1]), query, now)
    return None


def too_many(path: str, seconds: int) -> Row:
    """Return the body with which the API at a path refuses a request for its quota."""
    if path.startswith("/api/"):
        message = "You've exceeded the Rate Limit."
        return {"status": {"error_code": 429, "error_message": message}}
    return {"error": f"Too many requests; try again in {seconds} s"}


class Handler(BaseHTTPRequestHandler):
    """Answers GET; conditional requests get 304 while nothing has changed.

    The present never does, and the past does not but for the point of now.
    """

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
        if self._refused_for_quota(parts.path):
            return
        try:
            found = answer(parts.path, query)
        except BadQueryError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, _as_json({"error": str(error)}))
            return
        except RefusedError as error:
            self._send(error.status, _as_json(error.body))
            return
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, _as_json({"error": f"nothing at {parts.path}"}))
        elif found.etag in self.headers.get("If-None-Match", ""):
            self._send(HTTPStatus.NOT_MODIFIED, b"", found.etag)
        else:
            self._send(HTTPStatus.OK, found.body, found.etag)

    def _refused_for_quota(self, path: str) -> bool:
        assert isinstance(self.server, ReplayServer)  # noqa: S101 - no other one has this handler
        seconds = math.ceil(self.server.take(path))
        if seconds:
            body = _as_json(too_many(path, seconds))
            self._send(HTTPStatus.TOO_MANY_REQUESTS, body, retry_after=seconds)
        return seconds > 0

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        etag: str | None = None,
        *,
        retry_after: int | None = None,
    ) -> None:
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
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

    def __init__(self, address: tuple[str, int], *, requests_per_minute: int = 0) -> None:
        """Listen at an address.

        Args:
            address: host and port.
            requests_per_minute: how many requests each API takes in a minute; 0 for any number.
        """
        super().__init__(address, Handler)
        self._per_minute = requests_per_minute
        self._quotas = {family: Quota(requests_per_minute) for family in ("/api/", "/v1/")}

    def take(self, path: str) -> float:
        """Count a request. Returns 0 if it is granted, else the seconds until one will be."""
        if not self._per_minute:
            return 0
        return next((q.take() for family, q in self._quotas.items() if path.startswith(family)), 0)
