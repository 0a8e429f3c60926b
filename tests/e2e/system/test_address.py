"""The API keeps its address, whatever happens to the stack behind it."""

from __future__ import annotations

import pytest

from tests.support.stack import StackUnderTest


@pytest.mark.timeout(400)
@pytest.mark.changes_the_stack
def test_the_address_stays(stack: StackUnderTest) -> None:
    before = stack.api_url
    began = stack.get("/health")["data"]["status"]

    stack.up(LOG_RETENTION_DAYS="7")
    assert stack.api_url == before
    assert stack.get("/health")["data"]["status"] == began

    stack.down()
    stack.up()
    assert stack.api_url == before
    health = stack.get("/health")
    assert health["data"]["status"] == began
    # The rule was made anew, and owes no run of before.
    assert health["scheduler"]["status"] == "ok"
