"""The names of the tests themselves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def test_every_process_collects_the_same_tests(request: pytest.FixtureRequest) -> None:
    """A worker that names one test otherwise, by the time or a hash, ends the whole run."""
    here = {_name(item) for item in request.session.items}
    files = sorted({item.path for item in request.session.items})

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *files],
        cwd=request.config.rootpath,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert here <= set(run.stdout.splitlines())


def _name(item: pytest.Item) -> str:
    """The test's name without the group that xdist appends."""
    group = item.get_closest_marker("xdist_group")
    return item.nodeid if group is None else item.nodeid.removesuffix(f"@{group.args[0]}")
