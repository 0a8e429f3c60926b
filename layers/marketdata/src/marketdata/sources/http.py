"""One HTTP GET to a source, bounded in time and size, with every outcome named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests
import urllib3.exceptions

from marketdata import clock
from marketdata.errors import (
    SettingsError,
    Throttled,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from marketdata.sources.base import PageRequest

_CHUNK = 64 * 1024
_HEAD = 200
_USER_AGENT = "kasparro-etl/0.1"

_TOO_MANY = 429
_PAYMENT = 402
_SERVER_ERROR = 500
_REQUEST_TIMEOUTS = frozenset({408, 425})
_OK = 200
_LONGEST_PAUSE = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one answer may take, and how large it may be."""

    connect_seconds: float = 5.0
    read_seconds: float = 15.0
    """The longest silence between two pieces of an answer."""
    total_seconds: float = 60.0
    """The longest time of one whole answer: a source that drips would pass the limit above."""
    max_bytes: int = 64 * 1024 * 1024
    """The largest body, unpacked."""

    def within(self, seconds: float) -> Limits:
        """The same, but of no more than so many seconds (at least one) altogether."""
        total = min(self.total_seconds, max(1.0, seconds))
        return replace(
            self,
            connect_seconds=min(self.connect_seconds, total),
            read_seconds=min(self.read_seconds, total),
            total_seconds=total,
        )


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Answer:
    """A source's answer whose status is 200 and whose body has not been read yet."""

    url: str
    """Scheme, host and path: parameters may be identifying, and keys never belong in logs."""
    status: int
    etag: str | None
    content_type: str
    received_at: datetime
    """When the head of the answer arrived, on this machine's clock (UTC)."""
    chunks: Iterator[bytes]


class Session(requests.Session):
    """Keeps the connection between pages, and follows no redirect.

    A redirect would carry the key's header to whatever host it names; and to look where it
    goes, `requests` would read its whole body, without any of the limits here.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: the answer is taken as it is."""


@contextmanager
def get(session: Session, request: PageRequest, *, limits: Limits = LIMITS) -> Iterator[Answer]:
    """GET a page; its body is to be read, in pieces, within the `with` block.

    Args:
        session: keeps the connection between pages.
        request: what to ask.
        limits: how long the exchange may take, and how large the answer may be.

    Raises:
        Throttled: status 429 or 402, with the pause that the source asked for.
        UpstreamUnavailable: no connection, silence, a cut transfer, or a 5xx.
        UpstreamRefused: any other 4xx, or a redirect.
        UpstreamMalformed: a body larger than the limit.
        SettingsError: the address or the key can't be put into a request.
    """
    deadline = time.monotonic() + limits.total_seconds
    where = _without_query(request.url)
    try:
        response = session.get(
            request.url,
            params=request.params,
            headers={"Accept": "application/json", "User-Agent": _USER_AGENT, **request.headers},
            timeout=(limits.connect_seconds, limits.read_seconds),
            stream=True,
            allow_redirects=False,
        )
    except (requests.exceptions.InvalidHeader, UnicodeError):
        # The error's own text repeats the header, and so the key.
        raise SettingsError(
            f"The key for {where} has characters that no HTTP header may have, such as a line "
            "break or letters outside Latin-1. Correct it in the secret."
        ) from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        raise SettingsError(f"{where} is no address that can be asked. Correct its URL.") from None
    except requests.Timeout:
        raise UpstreamUnavailable(
            f"{where} did not answer within {limits.read_seconds:.3g} s."
        ) from None
    except requests.RequestException as error:
        raise UpstreamUnavailable(f"{where} could not be reached: {_cause(error)}.") from None
    with response:
        received_at = clock.now()
        if response.status_code != _OK:
            raise _refusal(response, where, received_at)
        yield Answer(
            url=where,
            status=response.status_code,
            etag=response.headers.get("ETag"),
            content_type=response.headers.get("Content-Type", ""),
            received_at=received_at,
            chunks=_body(response, where, deadline, limits.max_bytes),
        )


def _body(
    response: requests.Response, where: str, deadline: float, max_bytes: int
) -> Iterator[bytes]:
    size = 0
    try:
        # `read1` gives what has arrived; `iter_content` would wait for a full chunk, however
        # slowly it drips, and the deadline would never be looked at.
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            size += len(chunk)
            if size > max_bytes:
                raise UpstreamMalformed(
                    f"{where} answered more than {max_bytes} bytes, which no page of it should "
                    "be. If that is right, raise Limits in marketdata/sources/http.py."
                )
            if time.monotonic() > deadline:
                raise UpstreamUnavailable(
                    f"{where} was still sending after its time was up ({size} bytes came)."
                )
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise UpstreamUnavailable(
            f"{where} broke off its answer after {size} bytes: {_cause(error)}."
        ) from None


def _refusal(
    response: requests.Response, where: str, now: datetime
) -> Throttled | UpstreamUnavailable | UpstreamRefused:
    status = response.status_code
    head = _head(response)
    if status in (_TOO_MANY, _PAYMENT):
        seconds = retry_after_seconds(response.headers.get("Retry-After"), now=now)
        return Throttled(
            f"{where} answered {status} and asks for a pause of {seconds:.0f} s.",
            retry_after_seconds=seconds,
            status=status,
            head=head,
        )
    said = f" It said: {head!r}." if head else ""
    if status >= _SERVER_ERROR or status in _REQUEST_TIMEOUTS:
        return UpstreamUnavailable(f"{where} answered {status}.{said}", status=status, head=head)
    if 300 <= status < 400:  # noqa: PLR2004
        to = _without_query(response.headers.get("Location", "nowhere"))
        return UpstreamRefused(
            f"{where} answered {status} and redirects to {to}. Set the source's URL to where it "
            "should be asked.",
            status=status,
        )
    return UpstreamRefused(
        f"{where} refused the request with {status}: check the source's URL and key.{said}",
        status=status,
        head=head,
    )


def retry_after_seconds(value: str | None, *, now: datetime, default: float = 60.0) -> float:
    """The pause that a `Retry-After` header asks for, in seconds from `now`, at least 1.

    Format: RFC 9110, section 10.2.3: whole seconds, or an HTTP date. A header that is
    missing or unreadable counts as `default`, more than a year as a year.
    """
    if not value:
        return default
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(max(1.0, float(value)), _LONGEST_PAUSE)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return default
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(1.0, (date - now).total_seconds()), _LONGEST_PAUSE)


def _head(response: requests.Response) -> str:
    try:
        # What has arrived, however little: a broken server's error page may drip.
        first = response.raw.read1(_HEAD, decode_content=True)
    except urllib3.exceptions.HTTPError:
        return ""
    return first.decode("utf-8", "replace").strip()


def _without_query(url: str) -> str:
    """Scheme, host and path, without user, password and parameters; any text will do."""
    scheme, separator, rest = url.partition("?")[0].partition("#")[0].rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _cause(error: Exception) -> str:
    """The innermost reason of nested errors; outer texts repeat the URL and its parameters."""
    cause: BaseException = error
    while True:
        reason = getattr(cause, "reason", None)
        inner = reason if isinstance(reason, BaseException) else cause.__cause__
        if inner is None and cause.args and isinstance(cause.args[0], BaseException):
            inner = cause.args[0]
        if inner is None:
            break
        cause = inner
    text = str(cause).rpartition(": ")[2] or type(cause).__name__
    return text.strip(" .<>")
