"""Benchmarks: ratios measured in one run against one mongod, printed and written down.

They assert nothing about speed: these machines are noisy, and a test that fails now and then
is believed by nobody. What they do assert is that the work was really done.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console
from rich.table import Table

from local.settings import ROOT
from marketdata.store.connection import Store, connect
from marketdata.store.migrations import migrate
from tests.support.mongod import running_mongod

REPORT = ROOT / ".local" / "bench.json"


@dataclass
class Report:
    """The figures of this run, by benchmark."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, *, ratio: float | None, target: str, **details: Any) -> None:
        """Note the figures of one benchmark."""
        self.figures[name] = {"ratio": ratio, "target": target, **details}


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    """Collects the figures; shows and writes them at the end."""
    collected = Report()
    yield collected
    table = Table("benchmark", "ratio", "target", "details")
    for name, figures in collected.figures.items():
        details = {k: v for k, v in figures.items() if k not in ("ratio", "target")}
        ratio = figures["ratio"]
        table.add_row(
            name,
            "" if ratio is None else f"{ratio:.2f}",
            figures["target"],
            "\n".join(f"{k} {_shown(v)}" for k, v in details.items()),
        )
    Console(width=110).print(table)
    REPORT.parent.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    REPORT.write_text(json.dumps({**machine, **collected.figures}, indent=2) + "\n", "utf-8")


def _shown(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


@pytest.fixture(scope="session")
def mongodb_uri() -> Iterator[str]:
    """One mongod for both sides of every ratio."""
    with running_mongod() as mongod:
        yield mongod.uri


@pytest.fixture
def store(mongodb_uri: str) -> Iterator[Store]:
    """A migrated database of the test's own."""
    opened = connect(mongodb_uri, f"bench_{uuid4().hex[:8]}")
    migrate(opened)
    yield opened
    opened.client.drop_database(opened.database.name)
    opened.client.close()
