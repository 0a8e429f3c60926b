"""Time, as everything here counts it: UTC, whole milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def now() -> datetime:
    """The current time, cut to the milliseconds that BSON dates keep."""
    return from_ms(to_ms(datetime.now(UTC)))


def to_ms(time: datetime) -> int:
    """Milliseconds since 1970-01-01T00:00Z of an aware datetime; exact, no float between."""
    return (time - EPOCH) // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """The aware UTC datetime of milliseconds since 1970-01-01T00:00Z."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def iso(time: datetime) -> str:
    """ISO 8601 with milliseconds and `Z`, as every JSON response writes times."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
