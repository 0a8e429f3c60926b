"""What starts a run, and the run's identity that follows from it.

The hourly rule and S3 hand over an EventBridge envelope (`id`, `time`, `source`, `detail-type`,
`detail`). An event that is delivered twice has the same id, and so is one run. S3 may tell of
one object version in two events with two ids; there the object version is the identity.

A run on demand is there before its execution, which is told its id and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Self
from uuid import uuid4

from marketdata import clock
from marketdata.documents.runs import StoredRequest, TriggerKind
from marketdata.errors import InvalidInput
from marketdata.objects import NO_VERSION, ObjectVersion

_SCHEDULE_SOURCE = "aws.events"
_UPLOAD_SOURCE = "aws.s3"
_OLD_REFRESH_SOURCE = "marketdata.control"


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run on demand is asked to do; as it is, everything that the hourly one does."""

    sources: tuple[str, ...] | None = None
    """Only these; `csv` stands for the uploads."""
    force: bool = False
    """Load also what was loaded last, content for content."""
    resume: str | None = None
    """Go on with what this run left, instead of asking everything anew."""
    retry: bool = False
    """With `resume`: also what was given up, as if it had never failed."""

    @classmethod
    def of(cls, stored: StoredRequest) -> Self:
        """The request that a run was created with; see `document`."""
        sources = stored.get("sources")
        return cls(
            None if sources is None else tuple(sources),
            stored.get("force", False),
            stored.get("resume"),
            stored.get("retry", False),
        )

    def document(self) -> StoredRequest:
        """As the run keeps it: what is not asked for is not there."""
        stored: StoredRequest = {}
        if self.sources:
            stored["sources"] = list(self.sources)
        if self.force:
            stored["force"] = True
        if self.resume:
            stored["resume"] = self.resume
        if self.retry:
            stored["retry"] = True
        return stored


@dataclass(frozen=True, slots=True)
class Trigger:
    """What starts a run."""

    run_id: str
    """Begins with the time of the event, so that run ids sort by it."""
    kind: str
    """A `TriggerKind`."""
    event_id: str
    time: datetime
    upload: ObjectVersion | None = None
    """Of an upload: the object version as the event tells of it."""
    asked: RunRequest = RunRequest()


def on_demand(asked: RunRequest) -> Trigger:
    """A new trigger for a run on demand."""
    event_id, time = str(uuid4()), clock.now()
    return Trigger(_run_id(time, event_id), TriggerKind.REFRESH, event_id, time, asked=asked)


def of_replay() -> Trigger:
    """A new trigger for a run that loads rows from quarantine."""
    event_id, time = str(uuid4()), clock.now()
    return Trigger(_run_id(time, event_id), TriggerKind.REPLAY, event_id, time)


def of_backfill() -> Trigger:
    """A new trigger for a backfill."""
    event_id, time = str(uuid4()), clock.now()
    return Trigger(_run_id(time, event_id), TriggerKind.BACKFILL, event_id, time)


def execution_input(run_id: str) -> dict[str, str]:
    """What the execution of a run on demand is started with; `requested_run` reads it."""
    return {"run_id": run_id}


def requested_run(given: Mapping[str, Any]) -> str | None:
    """The run on demand that an execution was started for; None if an event started it.

    Args:
        given: the execution's input.
    """
    run_id = given.get("run_id")
    if run_id is None and given.get("source") == _OLD_REFRESH_SOURCE:
        return _run_of_old_refresh(given)
    return None if run_id is None else str(run_id)


def _run_of_old_refresh(envelope: Mapping[str, Any]) -> str:
    """The run of an execution that version 0.1 started, with an envelope as its input.

    Such a run was created before its execution as well, under the id that follows from the
    envelope. What it was asked to do is kept in the run.
    """
    event_id, time = _identify(envelope)
    return _run_id(time, event_id)


def run_id_of(given: Mapping[str, Any]) -> str:
    """The run that an execution carries out, by the input that it was started with.

    Raises:
        InvalidInput: nothing starts a run with such an input.
    """
    return requested_run(given) or parse(given).run_id


def parse(envelope: Mapping[str, Any]) -> Trigger:
    """The trigger that an event of the hourly rule or of S3 tells of.

    Raises:
        InvalidInput: it is no EventBridge envelope, or of a kind that starts no run.
    """
    event_id, time = _identify(envelope)
    source = envelope.get("source")
    if source == _UPLOAD_SOURCE:
        upload = _upload(envelope)
        identity = f"{upload.bucket}\0{upload.key}\0{upload.version_id}"
        return Trigger(_run_id(time, identity), TriggerKind.UPLOAD, event_id, time, upload)
    if source != _SCHEDULE_SOURCE:
        raise InvalidInput(f"An event from {source!r} starts no run.")
    return Trigger(_run_id(time, event_id), TriggerKind.SCHEDULE, event_id, time)


def _identify(envelope: Mapping[str, Any]) -> tuple[str, datetime]:
    """The id and the time of an event."""
    try:
        event_id, _source = str(envelope["id"]), envelope["source"]
        return event_id, datetime.fromisoformat(str(envelope["time"])).astimezone(UTC)
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            "The execution's input starts no run: it is neither a run's id (`run_id`) nor an "
            "EventBridge envelope with `id`, `time` (ISO 8601) and `source` "
            f"({type(error).__name__}: {error}). Nothing was started. Start runs by POST /refresh, "
            "the hourly rule or an upload."
        ) from None


def _upload(envelope: Mapping[str, Any]) -> ObjectVersion:
    """The object version that an event of S3 tells of.

    Format: Amazon S3 User Guide, "EventBridge event message structure". An object from before
    versioning has no `version-id`.
    """
    try:
        detail = envelope["detail"]
        described = detail["object"]
        bucket, key = str(detail["bucket"]["name"]), str(described["key"])
        return ObjectVersion(
            bucket=bucket,
            key=key,
            version_id=str(described.get("version-id") or NO_VERSION),
            size=described.get("size"),
            etag=described.get("etag"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            "The event of S3 does not say which object it is about: it needs `detail.bucket.name` "
            f"and `detail.object.key` ({type(error).__name__}: {error})."
        ) from None


def _run_id(time: datetime, identity: str) -> str:
    return f"{time:%Y%m%dT%H%M%SZ}-{sha256(identity.encode()).hexdigest()[:12]}"
