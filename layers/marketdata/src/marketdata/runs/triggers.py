"""What starts a run, and the run's identity that follows from it.

Every trigger hands over an EventBridge envelope (`id`, `time`, `source`, `detail-type`,
`detail`). An event that is delivered twice has the same id, and so is one run. S3 may tell of
one object version in two events with two ids; there the object version is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

from marketdata import clock
from marketdata.documents.runs import StoredRequest
from marketdata.errors import InvalidInput
from marketdata.objects import NO_VERSION, ObjectVersion

REFRESH_SOURCE = "marketdata.control"
REFRESH_TYPE = "Refresh Requested"
_SCHEDULE_SOURCE = "aws.events"
_UPLOAD_SOURCE = "aws.s3"


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

    def detail(self) -> StoredRequest:
        """As an envelope carries it: what is not asked for is not there."""
        detail: StoredRequest = {}
        if self.sources:
            detail["sources"] = list(self.sources)
        if self.force:
            detail["force"] = True
        if self.resume:
            detail["resume"] = self.resume
        if self.retry:
            detail["retry"] = True
        return detail


@dataclass(frozen=True, slots=True)
class Trigger:
    """A parsed envelope."""

    run_id: str
    """Begins with the time of the event, so that run ids sort by it."""
    kind: str
    """`schedule`, `refresh` or `upload`."""
    event_id: str
    time: datetime
    envelope: Mapping[str, Any] = field(repr=False)
    upload: ObjectVersion | None = None
    """Of an upload: the object version as the event tells of it."""
    asked: RunRequest = RunRequest()


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
    if source == _UPLOAD_SOURCE:
        upload = _upload(envelope)
        identity = f"{upload.bucket}\0{upload.key}\0{upload.version_id}"
        return Trigger(_run_id(time, identity), "upload", event_id, time, envelope, upload)
    kind = {_SCHEDULE_SOURCE: "schedule", REFRESH_SOURCE: "refresh"}.get(source)
    if kind is None:
        raise InvalidInput(f"An event from {source!r} starts no run.")
    asked = _asked(envelope.get("detail") or {}) if kind == "refresh" else RunRequest()
    return Trigger(_run_id(time, event_id), kind, event_id, time, envelope, asked=asked)


def _asked(detail: Any) -> RunRequest:
    """What the detail of a refresh asks for; also people start executions, by hand."""
    if not isinstance(detail, Mapping) or detail.keys() - {"sources", "force", "resume", "retry"}:
        raise InvalidInput(
            "The detail of a refresh has no other fields than `sources`, `force`, `resume` and "
            f"`retry`; it is {detail!r}."
        )
    sources, resume = detail.get("sources"), detail.get("resume")
    force, retry = detail.get("force", False), detail.get("retry", False)
    named = sources is None or (
        isinstance(sources, list) and all(isinstance(name, str) for name in sources)
    )
    if not (
        named
        and isinstance(resume, str | None)
        and isinstance(force, bool)
        and isinstance(retry, bool)
    ):
        raise InvalidInput(
            "The detail of a refresh has `sources` as a list of names, `resume` as a run's id, "
            f"`force` and `retry` as true or false; it is {detail!r}."
        )
    names = None if sources is None else tuple(dict.fromkeys(sources))
    return RunRequest(names, force, resume, retry and resume is not None)


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


def refresh_envelope(asked: RunRequest | None = None) -> dict[str, Any]:
    """A new envelope for a run on demand, in the very form that a rule would deliver."""
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": REFRESH_TYPE,
        "source": REFRESH_SOURCE,
        "time": clock.iso(clock.now()),
        "resources": [],
        "detail": asked.detail() if asked else {},
    }


def _run_id(time: datetime, identity: str) -> str:
    return f"{time:%Y%m%dT%H%M%SZ}-{sha256(identity.encode()).hexdigest()[:12]}"
