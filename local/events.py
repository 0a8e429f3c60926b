"""The sample events in ``events/``, made fit for the stack that is up.

A sample has made-up values where only the running system knows the true ones: the id and the time
of an event, the bucket and the version of an object, the token. These are put in here.
"""

import copy
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from local.deploy import CREDENTIALS
from local.errors import LocalError

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
        raise LocalError(f"the event {file} is no JSON: {error}") from None
    if not isinstance(event, dict):
        raise LocalError(f"the event {file} is no JSON object")
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
            _tell_of_the_true_object(event["detail"], stack)
    elif "requestContext" in event:
        for values in (event.get("headers") or {}, event.get("multiValueHeaders") or {}):
            if "Authorization" in values:
                token = f"Bearer {stack['refresh_token']}"
                values["Authorization"] = (
                    token if isinstance(values["Authorization"], str) else [token]
                )
    return event


def _tell_of_the_true_object(detail: Event, stack: Mapping[str, Any]) -> None:
    bucket, key = str(stack["bucket"]), detail["object"]["key"]
    session = boto3.Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=str(stack["region"]),
    )
    client = session.client(
        "s3",
        endpoint_url=str(stack["aws_endpoint_url"]),
        config=Config(connect_timeout=2, read_timeout=10),
    )
    try:
        head = client.head_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError) as error:
        raise LocalError(
            f"there is no s3://{bucket}/{key}, which the event tells of ({error}): put it there, or"
            " name another key in a copy of the event"
        ) from error
    finally:
        client.close()
    detail["bucket"]["name"] = bucket
    detail["object"].update(
        {
            "size": head["ContentLength"],
            "etag": head["ETag"].strip('"'),
            "version-id": head["VersionId"],
        }
    )
