"""Fixtures that tests of every kind share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from moto import mock_aws

from marketdata.store.connection import Store, connect
from marketdata.store.migrations import migrate
from tests.support.mongod import running_mongod

# A busy machine makes single examples slow; what matters is that they are right.
settings.register_profile("default", deadline=None, max_examples=100)
settings.load_profile("default")


def pytest_configure() -> None:
    """Give each worker a state folder of its own: some tests end whatever runs in theirs."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        folder = os.environ.get("LOCAL_STATE_DIR", ".local/test")
        os.environ["LOCAL_STATE_DIR"] = f"{folder}-{worker}"


LONGEST_NAME = 80  # characters
TESTS = Path(__file__).parent


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long value by its length: a test's name is for people, and is printed whole."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_NAME:
        return f"{argname} of {len(val)}"
    return None


# Before xdist's own, which reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread over the workers by file; what shares the deployed stack goes to one, and first."""
    for item in items:
        file = item.path.relative_to(TESTS).as_posix()
        item.add_marker(pytest.mark.xdist_group("stack" if _is_end_to_end(item) else file))
    # The longest group first, and in it, last, the tests that deploy other settings.
    items.sort(
        key=lambda item: (
            not _is_end_to_end(item),
            item.get_closest_marker("changes_the_stack") is not None,
        )
    )


def _is_end_to_end(item: pytest.Item) -> bool:
    return "e2e" in item.path.parts


@pytest.fixture(scope="session")
def mongodb_uri() -> Iterator[str]:
    """A real mongod, a replica set of one: TEST_MONGODB_URI, else one started for the session."""
    given = os.environ.get("TEST_MONGODB_URI")
    if given:
        yield given
        return
    with running_mongod(quick=True) as mongod:
        yield mongod.uri


@pytest.fixture
def empty_store(mongodb_uri: str) -> Iterator[Store]:
    """A database of this test's own with nothing in it, not even collections."""
    with _database(mongodb_uri) as store:
        yield store


@pytest.fixture(scope="session")
def _migrated(mongodb_uri: str) -> Iterator[Store]:
    with _database(mongodb_uri) as store:
        migrate(store)
        yield store


@pytest.fixture
def store(_migrated: Store) -> Store:
    """A migrated database without a document in it but for its migrations.

    Tests share it one after the other, since making the indexes anew takes a quarter of a
    second each time. A test that changes indexes or validators uses `empty_store`.
    """
    for name in _migrated.database.list_collection_names():
        if name != _migrated.migrations.name:
            _migrated.database[name].delete_many({})
    return _migrated


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An AWS that is moto's."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield


@contextmanager
def _database(uri: str) -> Iterator[Store]:
    """A database with a name of its own, dropped and its client closed at the end."""
    store = connect(uri, f"test_{uuid.uuid4().hex[:20]}")
    try:
        yield store
        store.client.drop_database(store.database.name)
    finally:
        store.client.close()
