"""Every error that this library raises on purpose, in one tree.

    MarketDataError
    ├── TransientError            the same call may succeed later: retry
    │   ├── Throttled             a source refused for its quota, and may have named a pause
    │   ├── UpstreamUnavailable   no answer, a broken answer, or a 5xx from a source
    │   │   └── UpstreamEmpty     no rows from a source that had some before
    │   ├── StoreUnavailable      MongoDB cannot be reached, has no primary, or forgot a cursor
    │   ├── StoreFull             MongoDB has no room left for what is written
    │   └── QueryTimeout          a read took longer than it may: narrow it
    └── TerminalError             the same call fails again: do not retry
        ├── SettingsError         a setting is missing, malformed, or names what is not there
        ├── StoreRefused          MongoDB or S3 does not let this user in, or not do this
        ├── UpstreamRefused       a source answered 4xx: the request or the key is wrong
        ├── UpstreamMalformed     a source answered something that is not its documented format
        ├── FileRefused           a file is not understood as a whole, or is gone
        ├── InvalidInput          a caller's parameter is unknown or malformed
        ├── NotFound              there is nothing under that id
        ├── Unauthorized          the bearer token is missing or wrong
        ├── StateConflict         the thing is not in the state that the step needs
        └── ConservationBroken    rows in is not the sum of what became of them

Whoever catches decides by the two upper classes alone; messages name the thing and the remedy.
"""

from __future__ import annotations


class MarketDataError(Exception):
    """Base of all errors raised on purpose; `code` is the stable, machine-readable name."""

    code = "error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class TransientError(MarketDataError):
    """Trying again later may help."""

    code = "transient"


class Throttled(TransientError):
    """A source refused a request for its quota; `retry_after_seconds` if it named a pause."""

    code = "throttled"

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, **details: object
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **details)
        self.retry_after_seconds = retry_after_seconds


class UpstreamUnavailable(TransientError):
    """A source gave no answer, half an answer, or a server error.

    `retry_after_seconds` if it named a pause, as with a 503.
    """

    code = "upstream_unavailable"

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, **details: object
    ) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class UpstreamEmpty(UpstreamUnavailable):
    """A source answered a list without rows, and had rows before."""

    code = "upstream_empty"


class StoreUnavailable(TransientError):
    """MongoDB cannot be reached, or has no primary at the moment."""

    code = "store_unavailable"


class StoreFull(TransientError):
    """MongoDB has no room left: its disk is full, or its plan's quota used up."""

    code = "store_full"


class QueryTimeout(TransientError):
    """A read took longer than it may; a narrower one, or a later one, may not."""

    code = "query_timeout"


class TerminalError(MarketDataError):
    """Trying again gives the same result."""

    code = "terminal"


class SettingsError(TerminalError):
    """A setting is missing or malformed, or names what is not there or may not be used."""

    code = "settings"


class StoreRefused(TerminalError):
    """MongoDB or S3 does not know who asks, or does not allow it."""

    code = "store_refused"


class UpstreamRefused(TerminalError):
    """A source refused the request (4xx): address, parameters or key are wrong."""

    code = "upstream_refused"


class UpstreamMalformed(TerminalError):
    """A source answered with something other than its documented format."""

    code = "upstream_malformed"


class FileRefused(TerminalError):
    """An uploaded file is not understood as a whole, or is not there any more."""

    code = "file_refused"


class InvalidInput(TerminalError):
    """A caller's parameter is unknown or malformed."""

    code = "invalid_input"


class NotFound(TerminalError):
    """There is nothing under that id."""

    code = "not_found"


class Unauthorized(TerminalError):
    """The bearer token is missing or wrong."""

    code = "unauthorized"


class StateConflict(TerminalError):
    """The thing is not, or no longer, in the state that this step needs."""

    code = "state_conflict"


class ConservationBroken(TerminalError):
    """Rows in is not the sum of inserted, updated, unchanged, duplicate and quarantined."""

    code = "conservation_broken"
