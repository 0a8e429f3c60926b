"""Amazon S3: object versions, listed, located and read."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from marketdata.aws import refusals
from marketdata.documents.sources import ListingMarker
from marketdata.errors import (
    FileRefused,
    MarketDataError,
    SettingsError,
    StoreRefused,
    TransientError,
)
from marketdata.objects import (
    INCOMING,
    NO_VERSION,
    Ignored,
    Listed,
    ObjectVersion,
    OpenObject,
    is_upload,
    why_ignored,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONFIG = Config(
    connect_timeout=2, read_timeout=7, retries={"mode": "standard", "total_max_attempts": 2}
)
"""A silence is given up within the time that a function keeps back for its end."""
_ENCODED_WORD = re.compile(r"=\?([^?]*?)\?([qQbB])\?(.*?)\?=")
"""A part of a header that says its charset, its encoding and its text, as `email` finds it."""
_QUOTED = re.compile(r"(?:[^=]|=[0-9A-Fa-f]{2})+")
_NO_CHARSETS = frozenset({"", "unknown-8bit"})
"""Names that `email` takes for a charset, and replaces what it can't know."""
_CHUNK = 1024 * 1024
_MOST_MEANT = 10
"""Folders whose name differs from `incoming/` in case only that are looked into."""
_GONE = frozenset(
    {"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "404", "MethodNotAllowed", "405", "400"}
)
"""An unknown version has no code of its own in an answer without a body (HEAD): 400 or 404."""
_PERMISSIONS = (
    "Check the function's permissions s3:GetObjectVersion and s3:ListBucketVersions, and the "
    "object's encryption key."
)
_KEY = "Check the KMS key that it is encrypted with: enable it, or cancel its deletion."
_BUCKET = "Check the bucket's name in UPLOADS_BUCKET, and the region and endpoint of the function."
_REFUSALS = refusals.ANYWHERE | {
    "AccessDenied": _PERMISSIONS,
    "403": _PERMISSIONS,
    "KMS.DisabledException": _KEY,
    "KMS.InvalidStateException": _KEY,
    "KMS.KMSInvalidStateException": _KEY,
    "KMS.NotFoundException": _KEY,
    "PermanentRedirect": _BUCKET,
    "301": _BUCKET,
    "ParamValidationError": _BUCKET,
}
"""What says nothing of a file, but of who asks and where, with the remedy."""
_UNTOLD = _GONE | {"AccessDenied", "403"}
"""Answers to a HEAD that may be about the key: without permission to list, 403 stands for 404."""
_ARCHIVED = "InvalidObjectState"
_NOT_SATISFIABLE = frozenset({"InvalidRange", "416"})


class S3Objects:
    """Reads objects, and tells which there are in one bucket.

    It is both an `objects.ObjectReader` and an `objects.UploadsBucket`.
    """

    def __init__(self, bucket: str = "") -> None:
        self.bucket = bucket

    @cached_property
    def _client(self) -> S3Client:
        return boto3.client("s3", config=_CONFIG)

    def listed(self, marker: ListingMarker | None = None) -> Listed:
        """See `objects.UploadsBucket`."""
        after: Any = {}
        if marker is not None:
            after = {"KeyMarker": marker["key"], "VersionIdMarker": marker["version_id"]}
        try:
            page = self._client.list_object_versions(Bucket=self.bucket, Prefix=INCOMING, **after)
        except (BotoCoreError, ClientError) as error:
            raise _unlisted(error, self.bucket) from error
        versions, ignored = [], []
        # Of each key the newest version comes first, which may have been at the end of a page.
        last = marker["key"] if marker and marker.get("seen") != "nothing" else None
        wanted = marker is not None and marker.get("seen") == "empty"
        for item in page.get("Versions", ()):
            key = item["Key"]
            newest = key != last
            if not newest and not (wanted and item["Size"]):
                continue
            # An empty version supersedes nothing: the newest one with content counts as well.
            last, wanted = key, not item["Size"]
            if is_upload(key):
                versions.append(
                    ObjectVersion(
                        bucket=self.bucket,
                        key=key,
                        version_id=item.get("VersionId", NO_VERSION),
                        size=item["Size"],
                        etag=item["ETag"].strip('"'),
                        last_modified=_whole_seconds(item["LastModified"]),
                    )
                )
            elif newest and why_ignored(key):
                ignored.append(Ignored(self.bucket, key))
        following: ListingMarker | None = None
        if page.get("IsTruncated"):
            following = {
                "key": page["NextKeyMarker"],
                "version_id": page.get("NextVersionIdMarker", NO_VERSION),
            }
            if following["key"] != last:
                following["seen"] = "nothing"
            elif wanted:
                following["seen"] = "empty"
        return Listed(versions, ignored, following)

    def elsewhere(self) -> list[Ignored]:
        """See `objects.UploadsBucket`."""
        try:
            page = self._client.list_object_versions(Bucket=self.bucket, Delimiter="/", Prefix="")
        except (BotoCoreError, ClientError) as error:
            raise _unlisted(error, self.bucket) from error
        found = [item["Key"] for item in page.get("Versions", ())]
        folders = [folder["Prefix"] for folder in page.get("CommonPrefixes", ())]
        meant = [name for name in folders if name.lower() == INCOMING and name != INCOMING]
        for name in meant[:_MOST_MEANT]:
            found += self._beneath(name)
        found += [name for name in folders if name not in meant[:_MOST_MEANT]]
        return [Ignored(self.bucket, key) for key in dict.fromkeys(found) if why_ignored(key)]

    def _beneath(self, folder: str) -> list[str]:
        """The keys in a folder that is meant to be `incoming/`; the folder for more than fit."""
        try:
            page = self._client.list_object_versions(Bucket=self.bucket, Prefix=folder)
        except (BotoCoreError, ClientError):
            # The folder's name says as much of them as can be known.
            return [folder]
        found = [item["Key"] for item in page.get("Versions", ())]
        return [*found, folder] if page.get("IsTruncated") or not found else found

    def locate(self, version: ObjectVersion) -> ObjectVersion:
        """See `objects.UploadsBucket`.

        EventBridge promises the key as it is, but not everything that speaks for S3 keeps
        that promise. Key and version id together tell which reading is the true one.
        """
        for key in dict.fromkeys((version.key, unquote(version.key), unquote_plus(version.key))):
            try:
                head = self._client.head_object(
                    Bucket=version.bucket, Key=key, VersionId=version.version_id
                )
            except (BotoCoreError, ClientError) as error:
                if refusals.code_of(error) not in _UNTOLD:
                    raise _named(error, version.place) from error
                continue
            return replace(
                version,
                key=key,
                size=head["ContentLength"],
                etag=head["ETag"].strip('"'),
                last_modified=_whole_seconds(head["LastModified"]),
            )
        return version

    def newest(self, key: str) -> ObjectVersion | None:
        """The version that a key has now; None if there is no such object.

        Raises:
            StoreRefused: it may not be looked at.
            TransientError: S3 did not answer.
        """
        version = ObjectVersion(self.bucket, key, NO_VERSION)
        try:
            head = self._client.head_object(Bucket=self.bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            if refusals.code_of(error) in _UNTOLD:
                return None
            raise _named(error, version.place) from error
        return replace(
            version, version_id=head.get("VersionId", NO_VERSION), size=head["ContentLength"]
        )

    @contextmanager
    def open(self, version: ObjectVersion, start: int = 0) -> Iterator[OpenObject]:
        """See `objects.ObjectReader`."""
        answer = self._get(version, f"bytes={start}-" if start else None)
        body = answer["Body"]
        size = int(answer.get("ContentRange", f"/{answer['ContentLength']}").rpartition("/")[2])
        try:
            yield OpenObject(
                replace(
                    version,
                    size=size,
                    etag=answer["ETag"].strip('"'),
                    last_modified=_whole_seconds(answer["LastModified"]),
                ),
                {name: _decoded(value) for name, value in answer.get("Metadata", {}).items()},
                _chunks(body, version.place),
            )
        finally:
            body.close()

    def read(self, version: ObjectVersion, start: int, end: int) -> bytes:
        """See `objects.ObjectReader`."""
        body = self._get(version, f"bytes={start}-{end - 1}")["Body"]
        try:
            return b"".join(_chunks(body, version.place))
        finally:
            body.close()

    def current(self, version: ObjectVersion) -> str | None:
        """See `objects.CurrentVersion`."""
        try:
            head = self._client.head_object(Bucket=version.bucket, Key=version.key)
        except (BotoCoreError, ClientError) as error:
            if refusals.code_of(error) in _UNTOLD:
                return None
            raise _named(error, version.place) from error
        newest = head.get("VersionId", NO_VERSION)
        if head["ContentLength"] or newest == version.version_id:
            return newest
        return self._newest_with_content(version) or newest

    def _newest_with_content(self, version: ObjectVersion) -> str | None:
        """The newest version of a key that has content; None if all of them are empty."""
        paginator = self._client.get_paginator("list_object_versions")
        try:
            for page in paginator.paginate(Bucket=version.bucket, Prefix=version.key):
                for item in page.get("Versions", ()):
                    if item["Key"] != version.key:
                        # Keys that begin with this one follow it.
                        return None
                    if item["Size"]:
                        return item.get("VersionId", NO_VERSION)
        except (BotoCoreError, ClientError) as error:
            raise _named(error, version.place) from error
        return None

    def _get(self, version: ObjectVersion, range_: str | None) -> Any:
        where: Any = {
            "Bucket": version.bucket,
            "Key": version.key,
            "VersionId": version.version_id,
        }
        if range_:
            where["Range"] = range_
        try:
            return self._client.get_object(**where)
        except (BotoCoreError, ClientError) as error:
            raise _named(error, version.place) from error


def _decoded(value: str) -> str:
    """A value of an object's metadata as it was given.

    S3 returns what is not ASCII encoded (RFC 2047; Amazon S3 User Guide, "Working with object
    metadata"). What is no such encoding, or a broken one, stays as it is: all of it.
    """
    if not all(_is_well_formed(*word) for word in _ENCODED_WORD.findall(value)):
        return value
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value


def _is_well_formed(charset: str, encoding: str, text: str) -> bool:
    """Whether an encoded word says something; `email` passes over much of what does not."""
    if not text or charset.lower() in _NO_CHARSETS:
        return False
    if encoding in "qQ":
        return _QUOTED.fullmatch(text) is not None
    try:
        return bool(b64decode(text + "=" * (-len(text) % 4), validate=True))
    except ValueError:
        return False


def _chunks(body: Any, place: str) -> Iterator[bytes]:
    try:
        yield from body.iter_chunks(_CHUNK)
    except (HTTPClientError, IncompleteReadError, BotoCoreError, OSError) as error:
        raise TransientError(
            f"S3 broke off while {place} was read: {error}. It is tried again."
        ) from error


def _named(error: BotoCoreError | ClientError, what: str) -> MarketDataError:
    """An error of S3 as one of ours: final where trying again gives the same."""
    code = refusals.code_of(error)
    if code in _GONE:
        # So is a bucket only when all of its versions are.
        lost = "its bucket" if code == "NoSuchBucket" else "this version"
        return FileRefused(
            f"{what} is not there ({code}): {lost} was deleted, by hand or by a lifecycle "
            "rule. Upload the file again if it is still wanted.",
            aws_code=code,
        )
    if remedy := _REFUSALS.get(code):
        # It says nothing of the file, which is read as soon as that is mended.
        return StoreRefused(f"{what} may not be read ({code}). {remedy}", aws_code=code)
    if code == _ARCHIVED:
        return FileRefused(
            f"{what} is in an archive ({code}). Restore it and upload it again.", aws_code=code
        )
    if code in _NOT_SATISFIABLE:
        return FileRefused(f"{what} is shorter than it was said to be ({code}).", aws_code=code)
    return TransientError(f"S3 did not answer for {what}: {error}. It is tried again.")


def _unlisted(error: BotoCoreError | ClientError, bucket: str) -> MarketDataError:
    """An error of listing a bucket: there is no file that it could be about.

    Nor is it `StoreRefused`, as whoever lists the uploads can do all else without them.
    """
    code, what = refusals.code_of(error), f"s3://{bucket}/{INCOMING}"
    remedy = _BUCKET if code == "NoSuchBucket" else _REFUSALS.get(code)
    if remedy is None:
        return TransientError(f"S3 did not list the uploads in {what}: {error}. It is tried again.")
    return SettingsError(f"The uploads in {what} can't be listed ({code}). {remedy}", aws_code=code)


def _whole_seconds(time: datetime) -> datetime:
    """UTC, as a GET tells it: listings of some stores are finer, and the two must agree."""
    return time.astimezone(UTC).replace(microsecond=0)
