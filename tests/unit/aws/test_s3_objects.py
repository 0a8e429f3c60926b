"""Errors of S3, told apart: try again, or say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import (
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.stub import Stubber

from marketdata.aws.s3_objects import S3Objects
from marketdata.errors import FileRefused, SettingsError, StoreRefused, TransientError
from marketdata.objects import ObjectVersion
from tests.support.stubs import stubbed_client

VERSION = ObjectVersion("uploads", "incoming/a.csv", "v1")
PARAMETERS = {"Bucket": "uploads", "Key": "incoming/a.csv", "VersionId": "v1"}


@pytest.fixture
def stubbed() -> Iterator[tuple[S3Objects, Stubber]]:
    objects = S3Objects("uploads")
    with stubbed_client(objects, "s3") as stubber:
        yield objects, stubber


@pytest.mark.parametrize(
    ("code", "status", "error", "says"),
    [
        ("NoSuchKey", 404, FileRefused, "Upload the file again"),
        ("NoSuchVersion", 404, FileRefused, "Upload the file again"),
        ("AccessDenied", 403, StoreRefused, "s3:GetObjectVersion"),
        ("NoSuchBucket", 404, FileRefused, "its bucket was deleted"),
        ("InvalidAccessKeyId", 403, StoreRefused, "execution role"),
        ("SignatureDoesNotMatch", 403, StoreRefused, "execution role"),
        ("InvalidToken", 400, StoreRefused, "execution role"),
        ("PermanentRedirect", 301, StoreRefused, "region and endpoint"),
        ("AuthorizationHeaderMalformed", 400, StoreRefused, "region"),
        ("AccountProblem", 403, StoreRefused, "billing"),
        ("KMS.NotFoundException", 400, StoreRefused, "KMS key"),
        ("KMS.DisabledException", 400, StoreRefused, "KMS key"),
        ("KMS.KMSInvalidStateException", 400, StoreRefused, "cancel its deletion"),
        ("InvalidRange", 416, FileRefused, "shorter"),
        # Lambda renews its credentials.
        ("ExpiredToken", 400, TransientError, "tried again"),
        ("KMS.ThrottlingException", 400, TransientError, "tried again"),
        ("SlowDown", 503, TransientError, "tried again"),
        ("InternalError", 500, TransientError, "tried again"),
        ("RequestTimeout", 400, TransientError, "tried again"),
    ],
)
def test_an_error_says_whether_trying_again_helps(
    stubbed: tuple[S3Objects, Stubber], code: str, status: int, error: type[Exception], says: str
) -> None:
    objects, stubber = stubbed
    stubber.add_client_error("get_object", code, http_status_code=status)
    stubber.add_client_error("get_object", code, http_status_code=status)

    with pytest.raises(error, match=says) as raised:
        objects.read(VERSION, 0, 10)
    assert VERSION.place in str(raised.value)
    with pytest.raises(error), objects.open(VERSION):
        pass


@pytest.mark.parametrize(
    "refusal",
    [
        NoCredentialsError(),
        PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"),
        ParamValidationError(report='Invalid bucket name "up/loads"'),
    ],
)
def test_what_is_refused_before_it_is_sent_gives_up_no_file(
    stubbed: tuple[S3Objects, Stubber], monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    objects, _ = stubbed

    def refuse(**_: Any) -> None:
        raise refusal

    for method in ("get_object", "head_object"):
        monkeypatch.setattr(objects._client, method, refuse)
    with pytest.raises(StoreRefused, match=f"{type(refusal).__name__}.*Check"):
        objects.read(VERSION, 0, 10)
    with pytest.raises(StoreRefused):
        objects.locate(VERSION)


@pytest.mark.parametrize(
    ("code", "status", "error", "says"),
    [
        ("NoSuchBucket", 404, SettingsError, "UPLOADS_BUCKET"),
        ("PermanentRedirect", 301, SettingsError, "UPLOADS_BUCKET"),
        ("AccessDenied", 403, SettingsError, "s3:ListBucketVersions"),
        ("InvalidAccessKeyId", 403, SettingsError, "execution role"),
        ("AccountProblem", 403, SettingsError, "billing"),
        ("ExpiredToken", 400, TransientError, "tried again"),
        ("SlowDown", 503, TransientError, "tried again"),
    ],
)
def test_a_bucket_that_can_not_be_listed_is_told_apart_from_a_file_and_from_the_database(
    stubbed: tuple[S3Objects, Stubber], code: str, status: int, error: type[Exception], says: str
) -> None:
    """Of the database's refusals a run dies; without its uploads it goes on."""
    objects, stubber = stubbed
    stubber.add_client_error("list_object_versions", code, http_status_code=status)

    with pytest.raises(error, match=says) as raised:
        objects.listed()
    assert type(raised.value) is error
    assert "s3://uploads/incoming/" in str(raised.value)
    assert "deleted, by hand" not in str(raised.value)


class Body:
    """A body that breaks off."""

    closed = False

    def read(self) -> bytes:
        return b""

    def iter_chunks(self, _size: int) -> Iterator[bytes]:
        yield b"symbol,"
        raise ResponseStreamingError(error="connection reset")

    def close(self) -> None:
        self.closed = True


def test_a_body_that_breaks_off_is_transient_and_closed(
    stubbed: tuple[S3Objects, Stubber],
) -> None:
    objects, stubber = stubbed
    body = Body()
    answer: dict[str, Any] = {
        "Body": body,
        "ContentLength": 100,
        "ContentRange": "bytes 20-119/120",
        "ETag": '"abc"',
        "LastModified": datetime(2025, 6, 2, 9, 0, 0, 123_000, UTC),
        "Metadata": {"dataset": "mine"},
    }
    stubber.add_response("get_object", answer, {**PARAMETERS, "Range": "bytes=20-"})

    with objects.open(VERSION, 20) as opened:
        assert opened.version.size == 120
        assert opened.version.etag == "abc"
        # A listing tells seconds; both must give the same time of receipt.
        assert opened.version.last_modified == datetime(2025, 6, 2, 9, tzinfo=UTC)
        assert opened.metadata == {"dataset": "mine"}
        assert next(opened.chunks) == b"symbol,"
        with pytest.raises(TransientError, match="broke off"):
            next(opened.chunks)
    assert body.closed


def test_locating_tries_the_key_as_told_first_and_gives_up_on_a_fault(
    stubbed: tuple[S3Objects, Stubber],
) -> None:
    objects, stubber = stubbed
    told = ObjectVersion("uploads", "incoming/a%20b+c.csv", "v1")
    head = {
        "ContentLength": 5,
        "ETag": '"e"',
        "LastModified": datetime(2025, 6, 2, tzinfo=UTC),
    }
    for key in ("incoming/a%20b+c.csv", "incoming/a b+c.csv"):
        stubber.add_client_error(
            "head_object", "404", http_status_code=404, expected_params={**PARAMETERS, "Key": key}
        )
    stubber.add_response("head_object", head, {**PARAMETERS, "Key": "incoming/a b c.csv"})
    assert objects.locate(told).key == "incoming/a b c.csv"

    for _ in range(3):
        stubber.add_client_error("head_object", "403", http_status_code=403)
    assert objects.locate(told) == told

    stubber.add_client_error("head_object", "503", http_status_code=503)
    with pytest.raises(TransientError):
        objects.locate(told)
