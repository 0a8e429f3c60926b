"""One stack for all end-to-end tests, with upstreams that the tests script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.support.stack import StackUnderTest, running_stack
from tests.support.upstream import Upstream, upstream

COINGECKO = "/api/v3/coins/markets"
COINPAPRIKA = "/v1/tickers"
KEY = "CG-not2beSeen4nybody"
"""A key that stands in the address of a source, as users put it there."""


@pytest.fixture(scope="session")
def server() -> Iterator[Upstream]:
    """The upstreams of all sources, in one server."""
    with upstream() as running:
        yield running


@pytest.fixture
def sources(server: Upstream) -> Upstream:
    """The upstreams, with no reply left of an earlier test."""
    server.replies.clear()
    return server


@pytest.fixture(scope="session")
def stack(server: Upstream) -> Iterator[StackUnderTest]:
    """The whole system, deployed from the real template."""
    with running_stack(
        COINGECKO_API_URL=f"{server.url}{COINGECKO}?x_cg_demo_api_key={KEY}",
        COINPAPRIKA_API_URL=server.url + COINPAPRIKA,
    ) as running:
        yield running


@pytest.fixture
def database(stack: StackUnderTest) -> Iterator[Database[dict[str, object]]]:
    """The stack's database, emptied of what earlier tests left, its indexes kept.

    The bucket is emptied with it: what nobody knows to be loaded would come with the next run.
    """
    stack.empty_bucket()
    client: MongoClient[dict[str, object]] = MongoClient(stack.mongodb_uri, tz_aware=True)
    with client:
        database = client[stack.database]
        for name in database.list_collection_names():
            if name != "migrations" and not name.startswith("system."):
                database[name].delete_many({})
        yield database
