"""What several integration tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from marketdata.load import incoming, writing
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
