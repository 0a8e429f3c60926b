"""How an error is stored, wherever a document has one."""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, TypedDict


class StoredError(TypedDict):
    """Why something failed."""

    code: str
    """Stable name of the kind of error; see `marketdata.errors`."""
    message: str
    """What happened, to what, and what to do next; up to 2,000 characters."""
    type: NotRequired[str | None]
    """Class of the error. Errors that Step Functions caught have none."""
    payload_head: NotRequired[str]
    """How the payload began that the error is about, up to 2,048 bytes of it."""
    reason: NotRequired[StoredError | None]
    """With the code `circuit_open`: the error that opened the circuit, with code and message."""
    next_probe_at: NotRequired[datetime | None]
    """With the code `circuit_open`: from when on the source is asked again."""


class FailedInput(StoredError):
    """Why an input of a run failed, with which one it was."""

    run_id: NotRequired[str]
    """The run."""
    input: NotRequired[str]
    """The input within that run."""
