"""What only the stacks in containers have; the stack without Docker runs none of this."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.network import stack_kind
from tests.support.stack import StackUnderTest

collect_ignore_glob = {
    "processes": ["test_*.py"],
    "containers": ["test_sam_local.py"],
    "sam": ["test_compose.py"],
}[stack_kind()]


@pytest.fixture
def empty_bucket(stack: StackUnderTest) -> Iterator[None]:
    """Nothing that a run could take is in the bucket, before and afterwards."""
    stack.empty_bucket()
    yield
    stack.empty_bucket()
