"""What several integration tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.upstream import Upstream, upstream


@pytest.fixture
def server() -> Iterator[Upstream]:
    """A source's API that answers as it is told."""
    with upstream() as running:
        yield running
