"""Documents of the collection `objects`: the versions of uploaded objects that runs have taken."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NotRequired, TypedDict

from marketdata.documents.questions import Answers, Question
from marketdata.documents.sources import Lease


class ObjectState(StrEnum):
    """What became of an object version."""

    TAKEN = "taken"
    """A run has taken it, and not all of it is loaded."""
    DONE = "done"
    """All of it is loaded, or dead-lettered."""
    REFUSED = "refused"
    """It is not understood as a whole, or every try at it failed."""
    WAITING = "waiting"
    """It asks something, and nothing of it is loaded before somebody has answered."""


class IgnoredObject(TypedDict):
    """An object in the bucket for uploads that no run takes, because of its key."""

    _id: str
    """A hash of the bucket and the key: it is noted once, however many versions there are."""
    bucket: str
    """The bucket."""
    key: str
    """The object's key; one that ends with a slash stands for all that is beneath it."""
    reason: str
    """Why it is not taken, and what to do."""
    noticed_at: datetime
    """When it was noticed first, by the database's clock."""


class StoredVersion(TypedDict):
    """Which version of which object; the stored form of `marketdata.objects.ObjectVersion`."""

    bucket: str
    """The bucket."""
    key: str
    """The object's key in the bucket."""
    version_id: str
    """S3's id of the version; `null` is S3's own name for one from before versioning."""
    size: int | None
    """Bytes of the whole object as it is stored; None as long as nobody has said."""
    etag: str | None
    """S3's ETag."""
    last_modified: datetime | None
    """When it was uploaded, by S3."""


class UploadedObject(StoredVersion):
    """An object version that a run has taken."""

    _id: str
    """`csv-` and a hash of bucket, key and version; also the name of the input in runs."""
    run_id: str
    """The run that has it."""
    state: str
    """What became of it; an `ObjectState`."""
    resumptions: int
    """How many later runs took it from one that had got nowhere with it."""
    taken_at: datetime
    """When the run that has it took it."""
    in_vain: NotRequired[str]
    """The run that has got nowhere with it, until the next one takes it."""
    settled_at: NotRequired[datetime]
    """Since when it is done or refused."""
    lease: NotRequired[Lease]
    """Which run has it locked, with the lease's fencing token."""
    questions: NotRequired[list[Question]]
    """What it has asked last; it stays when that is answered."""
    profile: NotRequired[str]
    """Of one that has asked: a hash of its header and its dialect. Files that look alike have the
    same."""
    waiting_at: NotRequired[datetime]
    """When it asked last, by the database's clock."""
    answers: NotRequired[Answers]
    """What somebody has said of this very version."""
    answered: NotRequired[int]
    """How often that was."""
    answered_at: NotRequired[datetime]
    """When that was last, by the database's clock."""
    reason: NotRequired[str]
    """Of one that had waited, and is done without being loaded: why."""
