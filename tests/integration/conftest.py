"""What several integration tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from marketdata.load import incoming, writing
from tests.support.uploads import Bucket
from tests.support.upstream import Upstream, upstream


@pytest.fixture
def server() -> Iterator[Upstream]:
    """A source's API that answers as it is told."""
    with upstream() as running:
        yield running


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are read and written two rows at a time."""
    monkeypatch.setattr(incoming, "CHUNK_ROWS", 2)
    monkeypatch.setattr(writing, "WRITTEN_TOGETHER", 2)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The bucket for uploads, empty."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield Bucket()
