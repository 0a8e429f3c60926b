"""The sample CSV: put into the bucket as a user would, and the run that takes it."""

import time
from typing import Any

import boto3
import pymongo
from botocore.exceptions import BotoCoreError, ClientError
from pymongo.errors import PyMongoError

from local.aws import client_options
from local.errors import LocalError
from local.replay.csv_sample import SAMPLE_KEY, sample_csv
from marketdata.objects import ObjectVersion

_TAKEN_SECONDS = 60
_POLL_SECONDS = 0.2


def put_sample(description: dict[str, Any]) -> ObjectVersion:
    """Put the sample CSV into the stack's bucket; each time is another version of one object.

    Raises:
        LocalError: the bucket does not take it.
    """
    s3 = boto3.client("s3", **client_options(description))
    bucket = description["bucket"]
    try:
        answer = s3.put_object(Bucket=bucket, Key=SAMPLE_KEY, Body=sample_csv())
    except (BotoCoreError, ClientError) as error:
        raise LocalError(f"the sample CSV could not be uploaded to {bucket}: {error}") from error
    return ObjectVersion(bucket, SAMPLE_KEY, answer["VersionId"])


def wait_until_taken(description: dict[str, Any], version: ObjectVersion) -> str:
    """The id of the run that has taken an object version.

    Nobody has to start one: the upload's event does.

    Raises:
        LocalError: no run has within a minute, or the database does not answer.
    """
    deadline = time.monotonic() + _TAKEN_SECONDS
    try:
        with pymongo.MongoClient[dict[str, Any]](description["mongodb_uri"]) as client:
            objects = client[description["mongodb_database"]]["objects"]
            while time.monotonic() < deadline:
                if found := objects.find_one({"_id": version.id}):
                    return str(found["run_id"])
                time.sleep(_POLL_SECONDS)
    except PyMongoError as error:
        raise LocalError(f"the database does not answer: {error}") from error
    raise LocalError(
        f"no run has started on {version.place} within {_TAKEN_SECONDS} s of its upload. It stays "
        "in the bucket; the functions' log (`make logs`) may say why"
    )
