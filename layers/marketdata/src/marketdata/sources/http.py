"""One HTTP GET to a source, bounded in time and size, with every outcome named."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions
import urllib3.response

from marketdata import clock
from marketdata.errors import (
    MarketDataError,
    SettingsError,
    Throttled,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from marketdata.masking import forms_of, keys_in, masked, without
from marketdata.sources.base import PageRequest, Validators
from marketdata.sources.error_bodies import ErrorBody, read_error
from marketdata.sources.json_stream import ObjectAnswered
from marketdata.version import VERSION

_CHUNK = 64 * 1024
HEAD_BYTES = 2_048
"""Of a payload that is not what it should be, what is kept for whoever looks into it."""
_SHOWN = 200
"""Characters of it that a message shows."""
_USER_AGENT = f"kasparro-etl/{VERSION}"
_LONGEST_PAUSE = 366 * 86_400.0
_NOT_MODIFIED = 304
_AGAIN = "Asking again later may help."


class Action(Enum):
    """What a status means for what happens next."""

    OK = auto()
    """The body is the page."""
    NOT_MODIFIED = auto()
    """The page is as it was."""
    THROTTLED = auto()
    """The quota is used up: slow down, wait, ask again."""
    TRANSIENT = auto()
    """The source's own trouble: ask again."""
    TERMINAL = auto()
    """Asking again gives the same."""


@dataclass(frozen=True, slots=True)
class StatusPolicy:
    """What is done about a status, and why."""

    action: Action
    advice: str = ""
    """What it means, and what whoever runs this can do about it."""


_REDIRECT = StatusPolicy(Action.TERMINAL, "Set the source's URL to where it should be asked.")

STATUS_POLICIES: Mapping[int, StatusPolicy] = {
    200: StatusPolicy(Action.OK),
    304: StatusPolicy(Action.NOT_MODIFIED),
    400: StatusPolicy(
        Action.TERMINAL, "The source does not understand the parameters; check its URL."
    ),
    401: StatusPolicy(Action.TERMINAL, "The key is missing or wrong; check it in the secret."),
    402: StatusPolicy(
        Action.THROTTLED, "The plan's quota is used up; it renews itself, or upgrade."
    ),
    403: StatusPolicy(
        Action.TERMINAL,
        "The key, its plan or this address may not ask that; check the source's URL and key.",
    ),
    404: StatusPolicy(Action.TERMINAL, "There is nothing at this address; check the source's URL."),
    405: StatusPolicy(Action.TERMINAL, "The address takes no GET; check the source's URL."),
    406: StatusPolicy(Action.TERMINAL, "The address has no JSON; check the source's URL."),
    408: StatusPolicy(Action.TRANSIENT, "The source gave up waiting for the request."),
    410: StatusPolicy(
        Action.TERMINAL, "The source has withdrawn this address; look for its new one."
    ),
    414: StatusPolicy(Action.TERMINAL, "The address is too long; check the source's URL."),
    422: StatusPolicy(Action.TERMINAL, "The source does not take the parameters; check its URL."),
    425: StatusPolicy(Action.TRANSIENT, "The source did not want to be asked so early."),
    429: StatusPolicy(
        Action.THROTTLED, "Too many requests; if this stays, lower the source's quota."
    ),
    451: StatusPolicy(Action.TERMINAL, "The source may not answer here for legal reasons."),
    500: StatusPolicy(Action.TRANSIENT, "An error within the source."),
    502: StatusPolicy(Action.TRANSIENT, "The source's gateway did not reach it."),
    503: StatusPolicy(Action.TRANSIENT, "The source is overloaded or under maintenance."),
    504: StatusPolicy(Action.TRANSIENT, "The source's gateway waited for it in vain."),
}
"""Statuses with a meaning of their own; `policy_of` has the others, by hundreds."""


def policy_of(status: int) -> StatusPolicy:
    """What is done about a status (RFC 9110, section 15: an unknown one counts as its x00)."""
    known = STATUS_POLICIES.get(status)
    if known is not None:
        return known
    match status // 100:
        case 3:
            return _REDIRECT
        case 4:
            return StatusPolicy(Action.TERMINAL, "Check the source's URL and key.")
        case 5:
            return StatusPolicy(Action.TRANSIENT, "A fault of the source.")
        case _:
            return StatusPolicy(Action.TERMINAL, "Only 200 brings a page; check the source's URL.")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one answer may take, and how large it may be."""

    connect_seconds: float = 3.0
    """Also a part of the margin that the rate limit keeps; see `store.sources`."""
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

_SECONDS = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


@dataclass(slots=True)
class Head:
    """The beginning of a body, kept while it is read."""

    _bytes: bytearray = field(default_factory=bytearray)
    _secrets: frozenset[str] = frozenset()

    def see(self, chunk: bytes) -> None:
        """Keep what still belongs to the beginning."""
        if len(self._bytes) < HEAD_BYTES:
            self._bytes += chunk[: HEAD_BYTES - len(self._bytes)]

    def text(self) -> str:
        """As text, without keys that the source may have repeated."""
        return without(self._bytes.decode("utf-8", "replace").strip(), self._secrets)


@dataclass(frozen=True, slots=True)
class Answer:
    """A source's answer whose status is 200 or 304 and whose body has not been read yet."""

    url: str
    """Scheme, host and path: parameters may be identifying, and keys never belong in logs."""
    status: int
    validators: Validators
    content_type: str
    received_at: datetime
    """When the head of the answer arrived, in UTC, by the clock that the caller gave."""
    chunks: Iterator[bytes]
    head: Head
    """What has been read of the body, up to some 2,000 bytes."""

    @property
    def not_modified(self) -> bool:
        """Whether the page is as it was, and has no body."""
        return self.status == _NOT_MODIFIED


class _Deadline:
    """When an answer must be there as a whole; then its connection is shut down.

    Silence is noticed by the socket. But the head of an answer is read line by line, as is a body
    that comes in chunks, and each byte that arrives begins the time of silence anew.
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._timer: threading.Timer | None = None

    @property
    def passed(self) -> bool:
        """Whether the end of what is read can't be taken for the end of the answer any more."""
        return time.monotonic() >= self._at

    def watch(self, sock: socket.socket) -> None:
        """Shut this connection down at the deadline, unless it is given up before."""
        self.give_up()
        left = max(0.0, self._at - time.monotonic())
        self._timer = threading.Timer(left, _shut_down, (sock,))
        self._timer.daemon = True
        self._timer.start()

    def give_up(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()


def _shut_down(sock: socket.socket) -> None:
    # Of the connection itself: one with TLS would first take leave of the other side.
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


_DEADLINE: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)
"""Of the answer that is being asked for."""


def _head_in_time(
    sock: socket.socket, read: Callable[[], urllib3.response.HTTPResponse]
) -> urllib3.response.HTTPResponse:
    """Read the head of an answer, and keep to the deadline from then on."""
    deadline = _DEADLINE.get()
    if deadline is None:
        return read()
    deadline.watch(sock)
    response = read()
    if deadline.passed:
        # A head that ends in the middle of its fields is taken for a whole one.
        response.close()
        raise ConnectionAbortedError
    return response


class _Connection(urllib3.connection.HTTPConnection):
    def getresponse(self) -> urllib3.response.HTTPResponse:  # type: ignore[override]
        return _head_in_time(self.sock, super().getresponse)


class _SecureConnection(urllib3.connection.HTTPSConnection):
    def getresponse(self) -> urllib3.response.HTTPResponse:  # type: ignore[override]
        return _head_in_time(self.sock, super().getresponse)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(requests.adapters.HTTPAdapter):
    """Opens connections that keep to the deadline."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As usual, with other classes."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


class Session(requests.Session):
    """Keeps the connection between pages, keeps to deadlines, and follows no redirect.

    A redirect would carry the key's header to whatever host it names; and to look where it
    goes, `requests` would read its whole body, without any of the limits here.
    """

    def __init__(self) -> None:
        """As any session; see the class."""
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: the answer is taken as it is."""


@contextmanager
def get(
    session: Session,
    request: PageRequest,
    *,
    limits: Limits = LIMITS,
    known: Validators | None = None,
    now: Callable[[], datetime] = clock.now,
) -> Iterator[Answer]:
    """GET a page; its body is to be read, in pieces, within the `with` block.

    Errors that are raised here, or in the block while the body is read, carry the payload's
    beginning as `details["payload_head"]`. They repeat no key, whatever the source has said.

    Args:
        session: keeps the connection between pages.
        request: what to ask.
        limits: how long the exchange may take, and how large the answer may be.
        known: what the page had when it was fetched last, to be told if it is still the same.
        now: the time in UTC.

    Raises:
        Throttled: status 429 or 402, with the pause that the source asked for, if it did.
        UpstreamUnavailable: no connection, silence, a cut transfer, a 5xx, 408 or 425, or any other
            status that comes with a pause to wait.
        UpstreamRefused: any other status than 200, or 304 where it was asked for, without a pause.
            An error that is told by a body of status 200 counts as the status that it tells.
        UpstreamMalformed: a body larger than the limit, or of another type than JSON.
        SettingsError: the address or the key can't be put into a request.
    """
    url = masked(request.url, request.shown)
    where = f"{url} (page {request.page})"
    secrets = _secrets(request)
    conditions = known.headers if known else {}
    headers = {"Accept": "application/json", "User-Agent": _USER_AGENT, **request.headers}
    deadline = _Deadline(limits.total_seconds)
    with (
        _giving_up(deadline),
        _hiding(secrets),
        _send(session, request, {**headers, **conditions}, where, limits, deadline) as response,
    ):
        received_at = now()
        head = Head(_secrets=secrets)
        try:
            _require_page(response, where, received_at, head, request, conditional=bool(conditions))
            yield Answer(
                url=url,
                status=response.status_code,
                validators=Validators(
                    response.headers.get("ETag"), response.headers.get("Last-Modified")
                ),
                content_type=response.headers.get("Content-Type", ""),
                received_at=received_at,
                chunks=_body(response, where, deadline, limits.max_bytes, head),
                head=head,
            )
        except MarketDataError as error:
            told = _told_by_body(error, response, where, received_at, head)
            if text := head.text():
                told.details.setdefault("payload_head", text)
            if told is error:
                raise
            raise told from error


@contextmanager
def _giving_up(deadline: _Deadline) -> Iterator[None]:
    try:
        yield
    finally:
        deadline.give_up()


def _secrets(request: PageRequest) -> frozenset[str]:
    """What of a request must not be shown, in all forms in which an answer may repeat it."""
    sent = (part for value in request.headers.values() for part in (value, *value.split()))
    return forms_of([*sent, *keys_in(request.url, request.shown)])


@contextmanager
def _hiding(secrets: frozenset[str]) -> Iterator[None]:
    """Take keys out of an error, and out of those that it came from: a log shows them all."""
    try:
        yield
    except MarketDataError as error:
        met: BaseException | None = error
        while isinstance(met, MarketDataError):
            _hide(met, secrets)
            met = met.__cause__ or met.__context__
        raise


def _hide(error: MarketDataError, secrets: frozenset[str]) -> None:
    error.message = without(error.message, secrets)
    error.args = (error.message,)
    for name, value in error.details.items():
        if isinstance(value, str):
            error.details[name] = without(value, secrets)


def _send(
    session: Session,
    request: PageRequest,
    headers: Mapping[str, str],
    where: str,
    limits: Limits,
    deadline: _Deadline,
) -> requests.Response:
    """The answer, of which the head has been read."""
    url = masked(request.url, request.shown)
    bounded = _DEADLINE.set(deadline)
    try:
        return session.get(
            request.url,
            params=request.params,
            headers=headers,
            timeout=(limits.connect_seconds, limits.read_seconds),
            stream=True,
            allow_redirects=False,
        )
    except (requests.exceptions.InvalidHeader, UnicodeError):
        # The error's own text repeats the header, and so the key.
        raise SettingsError(
            f"The key for {url} has characters that no HTTP header may have, such as a line "
            "break or letters outside Latin-1. Correct it in the secret."
        ) from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        raise SettingsError(f"{url} is no address that can be asked. Correct its URL.") from None
    except requests.ConnectTimeout:
        raise UpstreamUnavailable(
            f"{where} took no connection within {limits.connect_seconds:.3g} s. {_AGAIN}"
        ) from None
    except requests.Timeout:
        raise UpstreamUnavailable(
            f"{where} did not answer within {limits.read_seconds:.3g} s. {_AGAIN}"
        ) from None
    except requests.RequestException as error:
        if deadline.passed:
            raise UpstreamUnavailable(
                f"{where} was still sending the head of its answer after its time was up. {_AGAIN}"
            ) from None
        raise UpstreamUnavailable(
            f"{where} could not be reached: {_cause(error)}. {_AGAIN}"
        ) from None
    finally:
        _DEADLINE.reset(bounded)


def _require_page(
    response: requests.Response,
    where: str,
    now: datetime,
    head: Head,
    request: PageRequest,
    *,
    conditional: bool,
) -> None:
    """Let pass what is a page, or word that it has not changed."""
    status = response.status_code
    judged = policy_of(status)
    if judged.action is Action.NOT_MODIFIED and conditional:
        return
    if judged.action is not Action.OK:
        raise _refusal(response, judged, where, now, head, request)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind and kind not in ("application/json", "text/json") and not kind.endswith("+json"):
        _see_beginning(response, head)
        what = f"markup ({kind})" if kind in ("text/html", "text/xml") else kind
        if (seconds := pause_of(response.headers, now=now)) is not None:
            # As a page for people does that says that there is maintenance.
            raise UpstreamUnavailable(
                f"{where} answered {what} where JSON belongs and asks for a pause of "
                f"{_shown(seconds)} s.{_said(head)} {_AGAIN}",
                retry_after_seconds=seconds,
                status=status,
            )
        raise UpstreamMalformed(
            f"{where} answered {what} where JSON belongs.{_said(head)} Asking again gives the "
            "same; check the source's URL."
        )


def _body(
    response: requests.Response, where: str, deadline: _Deadline, max_bytes: int, head: Head
) -> Iterator[bytes]:
    size = 0

    def still_sending() -> UpstreamUnavailable:
        return UpstreamUnavailable(
            f"{where} was still sending after its time was up ({size} bytes came). {_AGAIN}"
        )

    try:
        # `read1` gives what has arrived; `iter_content` would wait for a full chunk, however
        # slowly it drips, and the deadline would never be looked at.
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            size += len(chunk)
            head.see(chunk)
            if size > max_bytes:
                raise UpstreamMalformed(
                    f"{where} answered more than {max_bytes} bytes, which no page of it should "
                    "be; asking again gives the same. If it is right, raise Limits in "
                    "marketdata/sources/http.py."
                )
            if deadline.passed:
                raise still_sending()
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        if deadline.passed:
            raise still_sending() from None
        raise UpstreamUnavailable(
            f"{where} broke off its answer after {size} bytes: {_cause(error)}. {_AGAIN}"
        ) from None
    if deadline.passed:
        # A body without a length ends with its connection, which was shut down.
        raise still_sending()


def _refusal(
    response: requests.Response,
    judged: StatusPolicy,
    where: str,
    now: datetime,
    head: Head,
    request: PageRequest,
) -> Throttled | UpstreamUnavailable | UpstreamRefused:
    status = response.status_code
    if judged is _REDIRECT:
        # Its body is never looked at: it could be without an end.
        to = masked(response.headers.get("Location", "nowhere"), request.shown)
        said = f"{where} answered {status} and redirects to {to}"
        if pause_of(response.headers, now=now) is None:
            return UpstreamRefused(f"{said}. {judged.advice}", status=status)
        return _error(response, status, judged, said, judged.advice, now)
    _see_beginning(response, head)
    told = f"{judged.advice}{_said(head)}"
    return _error(response, status, judged, f"{where} answered {status}", told, now)


def _told_by_body(
    error: MarketDataError, response: requests.Response, where: str, now: datetime, head: Head
) -> MarketDataError:
    """The error that a body of status 200 tells in place of rows, else the given one."""
    if not isinstance(error, ObjectAnswered):
        return error
    found = read_error(error.body)
    if found is None:
        return error
    said = f"{where} answered a JSON object with status 200, which tells {_as_told(found)}"
    told = _said(head)
    if found.status is None:
        seconds = pause_of(response.headers, now=now)
        if seconds is None:
            return UpstreamRefused(f"{said}.{told} This run does not ask again.", status=200)
        return UpstreamUnavailable(
            f"{said}, and asks for a pause of {_shown(seconds)} s.{told} {_AGAIN}",
            retry_after_seconds=seconds,
            status=200,
        )
    judged = policy_of(found.status)
    return _error(response, found.status, judged, said, f"{judged.advice}{told}", now)


def _as_told(found: ErrorBody) -> str:
    if found.status is not None:
        return f"of an error {found.status}"
    return "of an error" if found.code is None else f"of an error with the code {found.code}"


def _error(
    response: requests.Response,
    status: int,
    judged: StatusPolicy,
    said: str,
    told: str,
    now: datetime,
) -> Throttled | UpstreamUnavailable | UpstreamRefused:
    """The error that a status stands for.

    Args:
        response: the answer, whose headers may ask for a pause.
        status: the status, which an answer's body may have told.
        judged: what is done about it.
        said: what the source did, without a full stop.
        told: what that means, in whole sentences.
        now: when the answer came.
    """
    seconds = pause_of(response.headers, now=now)
    if judged.action is Action.THROTTLED:
        asked = "names no pause" if seconds is None else f"asks for a pause of {_shown(seconds)} s"
        return Throttled(f"{said} and {asked}. {told}", retry_after_seconds=seconds, status=status)
    # Who names a pause expects to be asked again, whatever the status.
    if judged.action is Action.TRANSIENT or seconds is not None:
        asked = "" if seconds is None else f" and asks for a pause of {_shown(seconds)} s"
        return UpstreamUnavailable(
            f"{said}{asked}. {told} {_AGAIN}", retry_after_seconds=seconds, status=status
        )
    return UpstreamRefused(f"{said}. {told} Asking again gives the same.", status=status)


def _shown(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


def pause_of(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """The pause that an answer's headers ask for, in seconds; None if they ask for none.

    A date is taken by the clock of the answer itself, if it tells its own date.
    """
    return retry_after_seconds(
        headers.get("Retry-After"), now=_http_date(headers.get("Date")) or now
    )


def retry_after_seconds(value: str | None, *, now: datetime) -> float | None:
    """The pause that a `Retry-After` header asks for, in seconds from `now`.

    Format: RFC 9110, section 10.2.3: whole seconds, or an HTTP date; some servers write seconds
    with a fraction. None where it is missing or unreadable; more than a year counts as a year, and
    no time, or a time that is past, as a second.
    """
    value = (value or "").strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    elif (date := _http_date(value)) is not None:
        seconds = (date - now).total_seconds()
    else:
        return None
    return min(seconds, _LONGEST_PAUSE) if seconds > 0 else 1.0


def _http_date(value: str | None) -> datetime | None:
    if not value:
        return None
    try:
        date = parsedate_to_datetime(value)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _see_beginning(response: requests.Response, head: Head) -> None:
    try:
        # What has arrived, however little: a broken server's error page may drip.
        head.see(response.raw.read1(HEAD_BYTES, decode_content=True))
    except urllib3.exceptions.HTTPError:
        return


def _said(head: Head) -> str:
    shown = head.text()[:_SHOWN]
    return f" It said: {shown!r}." if shown else ""


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
