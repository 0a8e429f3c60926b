"""A pytest plugin: gives every test as much more time as TEST_PATIENCE says."""

from __future__ import annotations

import pytest

from tests.support.waiting import PATIENCE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    usual = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker is not None else usual
        item.add_marker(pytest.mark.timeout(seconds * PATIENCE), append=False)
