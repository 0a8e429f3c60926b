"""One stack for all end-to-end tests, with upstreams that the tests script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.support.stack import StackUnderTest, running_stack
from tests.support.upstream import Upstream, upstream

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

COINGECKO = "/api/v3/coins/markets"
COINPAPRIKA = "/v1/tickers"


@pytest.fixture(scope="session")
def sources() -> Iterator[Upstream]:
    """The upstreams of all sources, in one server."""
    with upstream() as server:
        yield server


@pytest.fixture(scope="session")
def stack(sources: Upstream) -> Iterator[StackUnderTest]:
    """The whole system, deployed from the real template."""
    with running_stack(
        COINGECKO_API_URL=sources.url + COINGECKO, COINPAPRIKA_API_URL=sources.url + COINPAPRIKA
    ) as running:
        yield running


def empty_bucket(stack: StackUnderTest) -> None:
    """Delete all versions of all uploads."""
    s3: S3Client = boto3.client("s3", **stack.boto3_options())  # type: ignore[call-overload]
    bucket = stack.description["bucket"]
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])


@pytest.fixture
def database(stack: StackUnderTest) -> Iterator[Database[dict[str, object]]]:
    """The stack's database, emptied of what earlier tests left, its indexes kept.

    The bucket is emptied with it: what nobody knows to be loaded would come with the next run.
    """
    empty_bucket(stack)
    client: MongoClient[dict[str, object]] = MongoClient(stack.mongodb_uri, tz_aware=True)
    with client:
        database = client[stack.database]
        for name in database.list_collection_names():
            if name != "migrations" and not name.startswith("system."):
                database[name].delete_many({})
        yield database
