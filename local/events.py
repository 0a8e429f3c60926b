"""The sample events in ``events/``, made fit for the stack that is up.

A sample has made-up values where only the running system knows the true ones: the id and the time
of an event, the bucket and the version of an object, the token. These are put in here.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from local.aws import client_options
from local.errors import LocalError
from local.replay.csv_sample import SAMPLE_KEY, sample_csv

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

type Event = dict[str, Any]


def read_event(file: Path) -> Event:
    """Read an event from a file.

    Raises:
        LocalError: there is no such file, or it is no JSON object.
    """
    try:
        event = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise LocalError(f"the event {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LocalError(f"the event {file} is not valid JSON: {error}") from None
    if not isinstance(event, dict):
        raise LocalError(f"the event {file} is not a JSON object")
    return event


def is_envelope(event: Event) -> bool:
    """Return whether it is an event of EventBridge, which starts a run."""
    return "detail-type" in event


def completed(sample: Event, stack: Mapping[str, Any]) -> Event:
    """Return an event as the stack would make it, from a sample.

    Args:
        sample: an event of EventBridge (the hourly rule's, or S3's) or a request of API Gateway;
            any other stays as it is.
        stack: what ``stack.json`` says.

    Raises:
        LocalError: the object that an event of S3 tells of is not in the bucket.
    """
    event = copy.deepcopy(sample)
    if is_envelope(event):
        event["id"] = str(uuid4())
        event["time"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if event["source"] == "aws.s3":
            event["detail"] |= _new_version(event["detail"], stack)
    elif "requestContext" in event:
        bearer = f"Bearer {stack['refresh_token']}"
        for name, value in (("headers", bearer), ("multiValueHeaders", [bearer])):
            if "Authorization" in (event.get(name) or {}):
                event[name]["Authorization"] = value
    return event


def _new_version(detail: Event, stack: Mapping[str, Any]) -> Event:
    """Put the object of an event into the bucket once more; no run has taken that version yet."""
    bucket, key = str(stack["bucket"]), str(detail["object"]["key"])
    client = boto3.client("s3", **client_options(stack))
    try:
        with _silent(client, bucket):
            if key == SAMPLE_KEY:
                client.put_object(Bucket=bucket, Key=key, Body=sample_csv())
            else:
                client.copy_object(
                    Bucket=bucket,
                    Key=key,
                    CopySource={"Bucket": bucket, "Key": key},
                    MetadataDirective="REPLACE",
                    Metadata=client.head_object(Bucket=bucket, Key=key)["Metadata"],
                )
        head = client.head_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        raise LocalError(
            f"the event is about s3://{bucket}/{key}, which does not exist; upload it first"
            f" ({error})"
        ) from error
    finally:
        client.close()
    told = {
        "size": head["ContentLength"],
        "etag": head["ETag"].strip('"'),
        "version-id": head["VersionId"],
    }
    return {"bucket": {"name": bucket}, "object": {**detail["object"], **told}}


@contextmanager
def _silent(client: "S3Client", bucket: str) -> Iterator[None]:
    """Keep the bucket from telling of what is put into it meanwhile.

    Else the deployed state machine would take the object before anybody else. (LocalStack does not
    heed that a rule is disabled.)
    """
    answer = client.get_bucket_notification_configuration(Bucket=bucket)
    before = {name: one for name, one in answer.items() if name != "ResponseMetadata"}
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    try:
        yield
    finally:
        client.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration=before,  # type: ignore[arg-type]
        )
