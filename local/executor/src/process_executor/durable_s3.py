"""An S3 that keeps its objects from one start of LocalStack to the next.

LocalStack's free edition forgets everything when it ends. This provider puts objects into files of
DURABLE_S3_DIR and gives them back, with their versions, tags, times and ETags, as soon as a bucket
of the same name is created again; no notification is sent for them.

    <DURABLE_S3_DIR>/
      lock                     held by the LocalStack that uses the folder
      uploads/                 parts of multipart uploads under way; emptied at each start
      <bucket>/
        bucket.json            its versioning status
        data/<random>          one object version's content, never written twice
        keys/<hash of key>.json  the key with all its versions, oldest first

A request is answered after its key's description was replaced, in one step, by one that names the
files with the new content; files that no description names any more are removed after that. So a
LocalStack that is killed at any moment leaves each key as it was before or after a request.
(Nothing is forced to the disk: this is about processes that end, not about machines that do.)

Three parts of LocalStack 4.14.0 are built upon: S3ObjectStore, of which this is an implementation;
the response handlers of a service, which see a request before its answer leaves; and the
attributes of S3Object and S3DeleteMarker, which are what the description of a version is.
"""

import fcntl
import fnmatch
import hashlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Literal
from zoneinfo import ZoneInfo

from localstack.aws.api.s3 import NoSuchKey
from localstack.aws.handlers import modify_service_response
from localstack.services.s3.models import S3DeleteMarker, S3Object, VersionedKeyStore
from localstack.services.s3.provider import S3Provider
from localstack.services.s3.storage.ephemeral import (
    EphemeralS3ObjectStore,
    EphemeralS3StoredObject,
    LockedFileMixin,
)
from localstack.services.s3.utils import get_unique_key_id

from .errors import SettingError

LOG = logging.getLogger(__name__)

FOLDER_VARIABLE = "DURABLE_S3_DIR"
EXCLUDE_VARIABLE = "DURABLE_S3_EXCLUDE"
# Deployment packages of SAM and LocalStack's copies of them: made anew by each deployment.
_EXCLUDED = "aws-sam-cli-managed-*,awslambda-*"
_ZONE = ZoneInfo("GMT")  # the zone of LocalStack's own times

_FIRST_ERROR = HTTPStatus.BAD_REQUEST
_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR

# The requests after which something has to be written down or given back.
_CHANGES = frozenset(
    {
        "CreateBucket",
        "PutBucketVersioning",
        "PutObject",
        "PostObject",
        "CopyObject",
        "CompleteMultipartUpload",
        "DeleteObject",
        "DeleteObjects",
        "PutObjectAcl",
        "PutObjectTagging",
        "DeleteObjectTagging",
        "PutObjectLegalHold",
        "PutObjectRetention",
        "RestoreObject",
    }
)


class _Content:
    """The file of an object version, and who writes a new one now."""

    def __init__(self, name: str | None = None, last_modified: int = 0) -> None:
        """Name of the file in the bucket's data folder; None while the first one is written."""
        self.name = name
        self.last_modified = last_modified
        self.readwrite_lock = LockedFileMixin().readwrite_lock
        self.writer: int | None = None  # its thread

    def wait_for_writer(self) -> None:
        lock = self.readwrite_lock.gen_rlock()
        lock.acquire()
        lock.release()


class _OpenFile:
    """What EphemeralS3StoredObject calls its file: here one per reader and writer."""

    def __init__(self, content: _Content) -> None:
        """Open nothing: the object first waits for its turn with the content's lock."""
        self.readwrite_lock = content.readwrite_lock
        self.internal_last_modified = 0
        self.position_lock = threading.RLock()
        self._file: BinaryIO | None = None

    def open(self, path: Path, mode: Literal["rb", "x+b"], last_modified: int) -> None:
        self._file = path.open(mode)
        self.internal_last_modified = last_modified

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __getattr__(self, name: str) -> Any:  # seek, read, write, tell, truncate
        return getattr(self._file, name)


class _StoredObject(EphemeralS3StoredObject):  # type: ignore[misc] # LocalStack is untyped here
    """One reader or writer of an object version."""

    def __init__(self, bucket: "_KeptBucket", content: _Content, version: Any, mode: str) -> None:
        self._bucket = bucket
        self._content = content
        self.closed: bool
        super().__init__(version, _OpenFile(content), mode)  # waits for the content's lock
        try:
            if mode == "w":
                self._name = uuid.uuid4().hex
                self.file.open(bucket.data / self._name, "x+b", content.last_modified)
                content.writer = threading.get_ident()
            elif content.name is None:
                raise FileNotFoundError(version.key)
            else:
                self.file.open(bucket.data / content.name, "rb", content.last_modified)
        except OSError as error:
            self._lock.release()
            if isinstance(error, FileNotFoundError):  # deleted meanwhile
                raise NoSuchKey("The specified key does not exist.", Key=version.key) from error
            raise

    def close(self) -> None:
        """Publish what was written, and let the next one have the content."""
        self._finish(publish=True)

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self._finish(publish=kind is None)

    def _finish(self, *, publish: bool) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            self.file.close()  # what was written is in the file only after this
            if self._mode == "w":
                self._content.writer = None
                if publish:
                    self._content.last_modified = self.file.internal_last_modified
                    self._bucket.publish(self.s3_object, self._content, self._name)
                else:
                    (self._bucket.data / self._name).unlink(missing_ok=True)
        finally:
            self._lock.release()


class _KeptBucket:
    """The folder of one bucket, and which of its files the descriptions name."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.restored = False
        self._folder = folder
        self._keys = folder / "keys"
        self._keys.mkdir(exist_ok=True)
        self._status = folder / "bucket.json"
        self._contents: dict[tuple[str, str], _Content] = {}
        self._named: dict[str, set[str]] = {}  # key -> names of files
        self._lock = threading.RLock()

    # For readers and writers.

    def open(self, version: Any, mode: str) -> _StoredObject:
        """A reader or writer of a version's content."""
        with self._lock:
            content = self._contents.get(_identity(version))
            if content is None:
                if mode != "w":
                    raise NoSuchKey("The specified key does not exist.", Key=version.key)
                content = self._contents[_identity(version)] = _Content()
        return _StoredObject(self, content, version, mode)

    def publish(self, version: Any, content: _Content, name: str) -> None:
        """Make a written file a version's content."""
        with self._lock:
            # The version may have been deleted, even written anew, while this waited for its turn.
            known = self._contents.get(_identity(version), content)
            for replaced in {known.name, content.name}:
                self._remove_unless_named(version.key, replaced)
            content.name = name
            self._contents[_identity(version)] = content

    def forget(self, version: Any) -> None:
        """Forget a version's content; its file goes when no description names it any more."""
        with self._lock:
            content = self._contents.get(_identity(version))
            # LocalStack also removes what it is writing when that turns out wrong, and with it
            # what an object of this key had before; here the writer itself drops it.
            if content is not None and content.writer != threading.get_ident():
                del self._contents[_identity(version)]
                self._remove_unless_named(version.key, content.name)

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self._folder)

    # Descriptions.

    def keep_versioning(self, status: str | None) -> None:
        """Write down the bucket's versioning status."""
        _write(self._status, {"versioning_status": status})

    def keep(self, store: Any, s3_bucket: Any, key: str) -> None:
        """Write down a key with all its versions as they are now."""
        while busy := self._keep(store, s3_bucket, key):
            busy.wait_for_writer()

    def restore(self, store: Any, s3_bucket: Any) -> None:
        """Give a new bucket what is kept for its name."""
        with self._lock:
            if self.restored:
                return
            self.restored = True
            if self._status.exists():
                s3_bucket.versioning_status = json.loads(self._status.read_bytes())[
                    "versioning_status"
                ]
            if s3_bucket.versioning_status:
                s3_bucket.objects = VersionedKeyStore()
            for path in sorted(self._keys.glob("*.json")):
                described = json.loads(path.read_bytes())
                for entry in described["versions"]:
                    self._restore_version(store, s3_bucket, described["key"], entry)
            kept = set[str]().union(*self._named.values())
            for path in list(self.data.iterdir()):  # of requests that were never answered
                if path.name not in kept:
                    path.unlink()

    def _keep(self, store: Any, s3_bucket: Any, key: str) -> _Content | None:
        """As ``keep``; content that another request is writing, for which to wait, else None."""
        with self._lock:
            entries = []
            names = set()
            for version in _versions(s3_bucket, key):
                entry = {
                    **_describe(version),
                    "tags": store.tags.get_tags(_tags_id(s3_bucket, version)),
                }
                if isinstance(version, S3Object):
                    content = self._contents.get(_identity(version))
                    if content is not None and content.writer is not None:
                        return content
                    if content is None or content.name is None:
                        continue  # another request deletes it, and keeps the key in its turn
                    entry["content"] = content.name
                    names.add(content.name)
                entries.append(entry)
            description = self._keys / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
            if entries:
                _write(description, {"key": key, "versions": entries})
            else:
                description.unlink(missing_ok=True)
            before = self._named.pop(key, set())
            if names:
                self._named[key] = names
            for name in before - names:
                (self.data / name).unlink(missing_ok=True)
            return None

    def _remove_unless_named(self, key: str, name: str | None) -> None:
        """Remove a file, or leave that to the moment when the key's description lets go of it."""
        if name is not None and name not in self._named.get(key, ()):
            (self.data / name).unlink(missing_ok=True)

    def _restore_version(
        self, store: Any, s3_bucket: Any, key: str, entry: Mapping[str, Any]
    ) -> None:
        version = _revive(key, entry)
        if s3_bucket.versioning_status and version.version_id is None:
            version.version_id = "null"  # as LocalStack does when versioning is switched on
        if (name := entry.get("content")) is not None:
            if not (self.data / name).exists():
                LOG.warning("%s/%s: the file %s is missing", s3_bucket.name, key, name)
                return
            self._contents[_identity(version)] = _Content(name, version.internal_last_modified)
            self._named.setdefault(key, set()).add(name)
        s3_bucket.objects.set(key, version)
        if entry["tags"]:
            store.tags.update_tags(_tags_id(s3_bucket, version), entry["tags"])


class DurableObjectStore(EphemeralS3ObjectStore):  # type: ignore[misc]
    """Keeps the content of objects in files; excluded buckets are left to LocalStack's own store.

    Parts of unfinished multipart uploads are LocalStack's own, and not kept.
    """

    def __init__(self, folder: Path, excluded: list[str]) -> None:
        """Take possession of a folder.

        Raises:
            SettingError: if another LocalStack has it.
            OSError: if it cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingError(
                f"{FOLDER_VARIABLE}={folder} is in use by another LocalStack: stop that one or"
                " give this one a folder of its own"
            ) from error
        uploads = folder / "uploads"
        shutil.rmtree(uploads, ignore_errors=True)
        super().__init__(str(uploads))
        self._folder = folder
        self._excluded = excluded
        self._buckets: dict[str, _KeptBucket] = {}

    def kept(self, bucket: str) -> _KeptBucket | None:
        """A bucket's folder, if its objects are kept."""
        return self._buckets.get(bucket)

    # LocalStack's interface.

    def open(self, bucket: str, s3_object: Any, mode: str = "r") -> Any:
        """A reader or writer of an object version's content."""
        if kept := self.kept(bucket):
            return kept.open(s3_object, mode)
        return super().open(bucket, s3_object, mode)

    def remove(self, bucket: str, s3_object: Any) -> None:
        """Forget the content of one object version or several."""
        if kept := self.kept(bucket):
            for version in s3_object if isinstance(s3_object, list) else [s3_object]:
                kept.forget(version)
        else:
            super().remove(bucket, s3_object)

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket, or take up its folder."""
        super().create_bucket(bucket)
        if not any(fnmatch.fnmatchcase(bucket, pattern) for pattern in self._excluded):
            self._buckets[bucket] = _KeptBucket(self._folder / bucket)

    def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket, its folder too."""
        super().delete_bucket(bucket)
        if kept := self._buckets.pop(bucket, None):
            kept.remove()

    def close(self) -> None:
        """Let the next LocalStack have the folder."""
        super().close()
        self._lock_file.close()


class DurableS3Provider(S3Provider):  # type: ignore[misc]
    """LocalStack's S3 with the durable store behind it."""

    def __init__(self) -> None:
        """Read the settings.

        Raises:
            SettingError: if the folder is not given, or in use.
        """
        folder = os.environ.get(FOLDER_VARIABLE, "").strip()
        if not folder:
            raise SettingError(f"{FOLDER_VARIABLE} is not set: give LocalStack a folder for S3")
        excluded = os.environ.get(EXCLUDE_VARIABLE, "").strip() or _EXCLUDED
        self._durable = DurableObjectStore(
            Path(folder).absolute(), [pattern.strip() for pattern in excluded.split(",")]
        )
        super().__init__(self._durable)

    def on_after_init(self) -> None:
        """See each request before its answer leaves."""
        super().on_after_init()
        modify_service_response.append(self.service, self._before_answer)

    def _before_answer(self, _chain: Any, context: Any, response: Any) -> None:
        request = context.service_request or {}
        kept = self._durable.kept(request.get("Bucket", ""))
        if kept is None or context.operation is None or response.status_code >= _FIRST_ERROR:
            return
        try:
            self._keep_what_changed(kept, context, request)
        except Exception:
            # LocalStack would only log it, and the client take the object for safe.
            LOG.exception("%s of %s was not kept", context.operation.name, request.get("Bucket"))
            response.status_code = _SERVER_ERROR
            response.set_response(b"")

    def _keep_what_changed(self, kept: _KeptBucket, context: Any, request: Any) -> None:
        operation = context.operation.name
        if operation not in _CHANGES:
            return
        store, s3_bucket = self._get_cross_account_bucket(context, request["Bucket"])
        match operation:
            case "CreateBucket":
                kept.restore(store, s3_bucket)
            case "PutBucketVersioning":
                kept.keep_versioning(s3_bucket.versioning_status)
            case "DeleteObjects":
                for key in {each["Key"] for each in request["Delete"]["Objects"]}:
                    kept.keep(store, s3_bucket, key)
            case "PostObject":
                kept.keep(store, s3_bucket, _posted_key(context.request))
            case _:
                kept.keep(store, s3_bucket, request["Key"])


def _identity(version: Any) -> tuple[str, str]:
    return version.key, version.version_id or "null"


def _versions(s3_bucket: Any, key: str) -> list[Any]:
    """A key's versions and delete markers, oldest first."""
    objects = s3_bucket.objects
    if isinstance(objects, VersionedKeyStore):
        return list(objects._store.get(key, {}).values())  # noqa: SLF001 - else all keys are gone over
    version = objects.get(key)
    return [] if version is None else [version]


def _tags_id(s3_bucket: Any, version: Any) -> Any:
    return get_unique_key_id(s3_bucket.name, version.key, version.version_id)


def _posted_key(request: Any) -> str:
    key = str(request.form["key"])
    if file := request.files.get("file"):
        key = key.replace("${filename}", file.filename)
    return key


def _describe(version: Any) -> dict[str, Any]:
    values = vars(version)
    times = {name: value for name, value in values.items() if isinstance(value, datetime)}
    return {
        "delete_marker": isinstance(version, S3DeleteMarker),
        "values": {name: value for name, value in values.items() if name not in times},
        "times": {name: value.isoformat() for name, value in times.items()},
    }


def _revive(key: str, entry: Mapping[str, Any]) -> Any:
    version = S3DeleteMarker(key, "") if entry["delete_marker"] else S3Object(key)
    vars(version).update(entry["values"])
    for name, text in entry["times"].items():
        time = datetime.fromisoformat(text)
        vars(version)[name] = time.astimezone(_ZONE) if time.tzinfo else time
    return version


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file in one step."""
    new = path.with_suffix(".new")
    new.write_bytes(json.dumps(content).encode())
    new.replace(path)
