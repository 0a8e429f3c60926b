"""Events that start runs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from marketdata import clock


def hourly_event() -> dict[str, Any]:
    """A new event of the hourly rule, as EventBridge delivers it."""
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "time": clock.iso(clock.now()),
        "resources": [],
        "detail": {},
    }
