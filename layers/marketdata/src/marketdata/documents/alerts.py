"""Documents of the collection `alerts`: messages to whoever operates the service."""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict

from marketdata.documents.errors import StoredError


class NewAlert(TypedDict):
    """What an alert says."""

    kind: str
    """`source_failing`, `source_recovered`, `source_frozen`, `source_moving`, `run_died` or
    `execution_died`."""
    subject: str
    """One line."""
    text: str
    """The whole message, in plain text."""
    source: NotRequired[str]
    """The source that it is about."""
    run_id: NotRequired[str]
    """The run that it is about."""


class SetAside(TypedDict):
    """Why an alert will not be sent."""

    at: datetime
    """When it was given up."""
    error: StoredError
    """Why the topic refused it."""


class Alert(NewAlert):
    """An alert, written before it is sent."""

    _id: str
    """What it is about: finding the same thing twice makes one alert."""
    made_at: datetime
    """When it was written."""
    sent_at: datetime | None
    """When it was sent; None until then."""
    message_id: NotRequired[str | None]
    """The topic's id of the message; None where nobody is told."""
    claimed_until: NotRequired[datetime]
    """Until when one caller has it locked to send it."""
    tries: NotRequired[int]
    """How often sending it was begun."""
    set_aside: NotRequired[SetAside]
    """That it is dead-lettered, and why."""
