"""Uploaded objects: which version of which key, and what reading one takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Protocol, Self

from marketdata.documents.objects import StoredVersion
from marketdata.documents.sources import ListingMarker

CSV = "csv"
"""The source of all uploads."""
INCOMING = "incoming/"
"""Where uploads are looked for."""
_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
NO_VERSION = "null"
"""S3's own name for the version of an object from before versioning was switched on."""


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of one object: its bytes never change."""

    bucket: str
    key: str
    version_id: str
    size: int | None = None
    """Bytes; None as long as nobody has said."""
    etag: str | None = None
    last_modified: datetime | None = None

    @property
    def id(self) -> str:
        """The id of the input that this version is in a run."""
        identity = f"{self.bucket}\0{self.key}\0{self.version_id}"
        return f"csv-{sha256(identity.encode()).hexdigest()[:12]}"

    @property
    def place(self) -> str:
        """For messages and as a part of identities."""
        return f"s3://{self.bucket}/{self.key} (version {self.version_id})"

    def document(self) -> StoredVersion:
        """As it is stored."""
        return {
            "bucket": self.bucket,
            "key": self.key,
            "version_id": self.version_id,
            "size": self.size,
            "etag": self.etag,
            "last_modified": self.last_modified,
        }

    @classmethod
    def of(cls, document: StoredVersion) -> Self:
        """Back from what is stored."""
        return cls(
            bucket=document["bucket"],
            key=document["key"],
            version_id=document["version_id"],
            size=document.get("size"),
            etag=document.get("etag"),
            last_modified=document.get("last_modified"),
        )


def is_upload(key: str) -> bool:
    """Whether a key is one that runs take: a CSV under `incoming/`, its ending in any case."""
    return key.startswith(INCOMING) and key.lower().endswith(_ENDINGS)


def why_ignored(key: str) -> str | None:
    """Why no run takes an object of this key, and what to do; None if one does.

    What ends with a slash is a folder, and is taken for all that is beneath it.
    """
    if is_upload(key) or key == INCOMING:
        return None
    if key.startswith(INCOMING):
        if key.endswith("/"):
            return None
        return (
            f"Only names that end with {', '.join(_ENDINGS)} are taken. Unpack or rename it, and "
            "upload it again."
        )
    if key.lower().startswith(INCOMING):
        written = key[: len(INCOMING)]
        return f"Uploads are looked for under {INCOMING}, and not {written}: the case counts."
    return f"Uploads are looked for under {INCOMING}. Put it there."


@dataclass(frozen=True, slots=True)
class Ignored:
    """An object, or a folder of them, that no run takes because of its key."""

    bucket: str
    key: str

    @property
    def id(self) -> str:
        """Names it for ever."""
        return sha256(f"{self.bucket}\0{self.key}".encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Listed:
    """A part of the list of a bucket's versions, in S3's order: by key, the newest first."""

    versions: list[ObjectVersion]
    """Of each upload the newest version and, if that is empty, the newest one with content. Others
    are superseded, and loaded by nobody."""
    ignored: list[Ignored]
    """Objects beside them that no run takes."""
    marker: ListingMarker | None
    """Where the list goes on; None at its end."""


@dataclass(frozen=True, slots=True)
class OpenObject:
    """An object whose head was read and whose body is to be read in pieces."""

    version: ObjectVersion
    """With its size (of the whole object), ETag and time."""
    metadata: Mapping[str, str]
    chunks: Iterator[bytes] = field(repr=False)


class ObjectReader(Protocol):
    """Reads object versions.

    Every method raises:
        FileRefused: that version is not there (any more).
        StoreRefused: it may not be read, or S3 does not know who asks; no fault of the file.
        TransientError: S3 did not answer, or broke off.
    """

    def open(self, version: ObjectVersion, start: int = 0) -> AbstractContextManager[OpenObject]:
        """The object from a byte on."""

    def read(self, version: ObjectVersion, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, which is not included."""


type CurrentVersion = Callable[[ObjectVersion], str | None]
"""S3's id of the version that counts for the key of a version now: the newest one with content or,
for a version that is the newest and empty, itself. None if the key was deleted. Raises as
`ObjectReader` does."""


class UploadsBucket(Protocol):
    """The bucket for uploads: which objects are in it. Raises as `ObjectReader` does."""

    bucket: str

    def listed(self, marker: ListingMarker | None = None) -> Listed:
        """A part of what is under `incoming/`: a thousand versions, behind a marker.

        A delete marker hides no version.

        Raises:
            SettingsError: the bucket is not there, or may not be listed.
            TransientError: S3 did not answer.
        """

    def elsewhere(self) -> list[Ignored]:
        """What is beside `incoming/`: objects, and folders with all that is beneath them.

        Of a folder whose name differs from `incoming/` in case only, each object is named: whoever
        put it there meant it as an upload. A thousand of each at most. Raises as `listed` does.
        """

    def locate(self, version: ObjectVersion) -> ObjectVersion:
        """The version that an event tells of, under its true key and with its attributes.

        An event's key may be percent-encoded. A version that is not there comes back as it is.
        """
