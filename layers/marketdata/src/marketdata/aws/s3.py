"""Amazon S3: the bucket that clients put files into."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from marketdata.errors import TransientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONFIG = Config(signature_version="s3v4", connect_timeout=3, read_timeout=10)
_REGIONAL = _CONFIG.merge(Config(s3={"addressing_style": "virtual"}))
"""For S3 itself. Without it a form names the global host, which redirects to the bucket's region,
and a form does not survive a redirect."""
_ELSEWHERE = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def _config() -> Config:
    # A host that is given has no hosts of buckets beneath it that a client could look up.
    return _CONFIG if any(map(os.environ.get, _ELSEWHERE)) else _REGIONAL


@dataclass(frozen=True, slots=True)
class Form:
    """What a client sends with its file, as multipart/form-data."""

    url: str
    fields: dict[str, str]


class Uploads:
    """Lets clients put objects into one bucket, one at a time."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    @cached_property
    def _client(self) -> S3Client:
        return boto3.client("s3", config=_config())

    def presign(
        self,
        key: str,
        *,
        content_type: str,
        smallest: int,
        largest: int,
        dataset: str | None,
        expires: timedelta,
    ) -> Form:
        """A form that lets its holder put one object under this key.

        Signing needs no call to S3. What the form fixes, S3 checks: the key, the type, the
        size between `smallest` and `largest` bytes, and the metadata `dataset`.

        Raises:
            TransientError: there are no credentials to sign with.
        """
        fixed = {"Content-Type": content_type}
        if dataset is not None:
            fixed["x-amz-meta-dataset"] = dataset
        conditions: list[Any] = [
            ["content-length-range", smallest, largest],
            *({name: value} for name, value in fixed.items()),
        ]
        try:
            form = self._client.generate_presigned_post(
                Bucket=self._bucket,
                Key=key,
                Fields=dict(fixed),
                Conditions=conditions,
                ExpiresIn=int(expires.total_seconds()),
            )
        except (BotoCoreError, ClientError) as error:
            raise TransientError(f"The upload of {key} could not be signed: {error}") from error
        return Form(form["url"], form["fields"])
