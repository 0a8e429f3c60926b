"""The stack that is attacked, deployed from the real template."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chaos_stack import Chaos, running_chaos


@pytest.fixture(scope="session")
def chaos() -> Iterator[Chaos]:
    """The whole system with a control beside it that nothing disturbs; one for each worker."""
    with running_chaos() as running:
        yield running
