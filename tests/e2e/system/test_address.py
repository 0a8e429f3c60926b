"""The address of the API stays, whatever happens to the stack beneath it."""

from __future__ import annotations

import pytest

from tests.support.stack import StackUnderTest


@pytest.mark.timeout(400)
@pytest.mark.changes_the_stack
def test_the_address_stays_with_another_setting_and_after_the_stack_was_down(
    stack: StackUnderTest,
) -> None:
    address = stack.api_url
    assert stack.get("/health")["mongodb"]["status"] == "ok"
    stack.up(COINGECKO_PAGES="2")
    assert stack.api_url == address
    stack.down()
    stack.up()
    assert stack.api_url == address
    found = stack.get("/health")
    assert found["mongodb"]["status"] == "ok"
    # The rule was made anew, and owes no run of before.
    assert found["scheduler"]["status"] == "ok"
