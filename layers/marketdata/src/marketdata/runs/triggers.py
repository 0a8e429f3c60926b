"""What starts a run, and the run's identity that follows from it.

Every trigger hands over an EventBridge envelope (`id`, `time`, `source`, `detail-type`,
`detail`). An event that is delivered twice has the same id, and so is one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

from marketdata import clock
from marketdata.errors import InvalidInput

REFRESH_SOURCE = "marketdata.control"
REFRESH_TYPE = "Refresh Requested"
_SCHEDULE_SOURCE = "aws.events"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A parsed envelope."""

    run_id: str
    """Begins with the time of the event, so that run ids sort by it."""
    kind: str
    """`schedule` or `refresh`."""
    event_id: str
    time: datetime
    envelope: Mapping[str, Any] = field(repr=False)


def parse(envelope: Mapping[str, Any]) -> Trigger:
    """The trigger that an envelope tells of.

    Raises:
        InvalidInput: it is no EventBridge envelope, or of a kind that starts no run.
    """
    try:
        event_id = str(envelope["id"])
        time = datetime.fromisoformat(str(envelope["time"])).astimezone(UTC)
        source = str(envelope["source"])
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            "The execution's input is no EventBridge envelope: it needs `id`, `time` (ISO 8601) "
            f"and `source` ({type(error).__name__}: {error}). Start runs by POST /refresh, the "
            "hourly rule or an upload."
        ) from None
    kind = {_SCHEDULE_SOURCE: "schedule", REFRESH_SOURCE: "refresh"}.get(source)
    if kind is None:
        raise InvalidInput(f"An event from {source!r} starts no run.")
    return Trigger(_run_id(time, event_id), kind, event_id, time, envelope)


def refresh_envelope() -> dict[str, Any]:
    """A new envelope for a run on demand, in the very form that a rule would deliver."""
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": REFRESH_TYPE,
        "source": REFRESH_SOURCE,
        "time": clock.iso(clock.now()),
        "resources": [],
        "detail": {},
    }


def _run_id(time: datetime, identity: str) -> str:
    return f"{time:%Y%m%dT%H%M%SZ}-{sha256(identity.encode()).hexdigest()[:12]}"
