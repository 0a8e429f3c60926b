"""What a foreign dialect costs, and how cheap hostile files are, as ratios and rows a second."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any

import pytest

from marketdata.errors import FileRefused
from marketdata.runs.previewing import preview
from marketdata.store.connection import Store
from tests.bench.conftest import Report
from tests.bench.files import Upload, market_csv

ROWS = int(os.environ.get("BENCH_ROWS", "200000"))
ROUNDS = 3
NOW = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.timeout(1800)


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def foreign(canonical: bytes) -> bytes:
    """The same rows with semicolons, decimal commas and days first."""
    rows: Iterable[Sequence[str]] = csv.reader(io.StringIO(canonical.decode()))
    lines = []
    for number, row in enumerate(rows):
        cells = list(row)
        if number:
            cells[3:7] = [cell.replace(".", ",") for cell in cells[3:7]]
            at = datetime.fromisoformat(cells[7])
            cells[7] = f"{at:%d/%m/%Y %H:%M:%S}"
        lines.append(";".join(cells))
    return "\n".join(lines).encode()


def test_a_foreign_dialect(store: Store, report: Report) -> None:
    """By turns, each time rows of their own: cutting and loading together."""
    times: dict[str, list[float]] = {"canonical": [], "foreign": []}
    for turn in range(ROUNDS):
        for kind, dress in (("canonical", lambda data: data), ("foreign", foreign)):
            store.market_data.delete_many({})
            data = dress(market_csv(ROWS))
            name = f"{kind}{turn}"

            def work(data: bytes = data, name: str = name) -> None:
                counts = Upload(store, data, name=name, batch_rows=50_000).load()
                assert counts.inserted == ROWS

            times[kind].append(timed(work))
    canonical, other = (median(times[kind]) for kind in ("canonical", "foreign"))
    report.add(
        "foreign_dialect",
        ratio=canonical / other,
        target=">= 0.7",
        canonical_rows_per_second=ROWS / canonical,
        foreign_rows_per_second=ROWS / other,
    )


def test_a_preview_of_a_megabyte(report: Report) -> None:
    seconds = {}
    for kind, data in (("canonical", market_csv(20_000)), ("foreign", foreign(market_csv(20_000)))):
        part = data[:1_000_000]
        part = part[: part.rindex(b"\n") + 1]
        seconds[kind] = timed(partial(previewed, part))
    report.add("preview_of_1_mb", ratio=1 / max(seconds.values()), target=">= 1", **seconds)


def previewed(data: bytes) -> None:
    assert preview(data, key="incoming/x.csv", answers={}, received_at=NOW) is not None


def test_hostile_files(store: Store, report: Report) -> None:
    empty = b"symbol,price_usd,timestamp\n" + b"\n" * (60 * 2**20) + b"A,1,2025-05-09\n"
    letters = b"symbol,price_usd,timestamp\n" + b"ab\n" * 400_000
    seconds = {
        "empty_lines_60_mib": timed(lambda: Upload(store, empty, name="empty").load()),
        "two_letters_400_000": timed(lambda: refused(letters)),
    }
    report.add("hostile_files", ratio=2 / seconds["empty_lines_60_mib"], target=">= 1", **seconds)


def refused(data: bytes) -> None:
    with pytest.raises(FileRefused, match="Nearly all"):
        preview(data, key="incoming/x.csv", answers={}, received_at=NOW)


def test_quarantine(store: Store, report: Report) -> None:
    """Rows that are set aside one by one: a third of a file, as one of more is refused whole."""
    rows = 90_000
    lines = [
        f"C{n % 500},{n}.5,{1_600_000_000 + n // 500 * 60}" if n % 3 else "ab" for n in range(rows)
    ]
    data = ("symbol,price_usd,timestamp\n" + "\n".join(lines)).encode()
    good = ("symbol,price_usd,timestamp\n" + "\n".join(x for x in lines if x != "ab")).encode()
    upload = Upload(store, good, name="good", batch_rows=50_000)
    alone = timed(upload.load)
    store.market_data.delete_many({})
    mixed = Upload(store, data, name="mixed", batch_rows=50_000)
    together = timed(mixed.load)
    bad = lines.count("ab")
    rate = bad / max(together - alone, 0.001)
    report.add("quarantine", ratio=rate / 20_000, target=">= 1", rows_per_second=rate)
