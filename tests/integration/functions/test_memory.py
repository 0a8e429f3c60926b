"""The memory of a function stays within bounds, whatever the size of a file."""

from __future__ import annotations

import os
import sys

import pytest

from marketdata.settings import CsvSettings
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.memory import MIB, Stream, peak_mib

STREAM_MIB = int(os.environ.get("MEMORY_STREAM_MIB", "100"))
"""Size of the large file. Nobody stores it: it is made as it is read."""
LIMIT_MIB = 300
LONG = STREAM_MIB >= 1000
"""Whether there is time for the largest batches that can be set."""
USUAL_ROW_BYTES = 100

DEFAULTS = {"batch_rows": 50_000, "batch_bytes": 4 * MIB}
MAXIMA = {"batch_rows": 50_000, "batch_bytes": 32 * MIB}

pytestmark = [
    pytest.mark.timeout(120 + STREAM_MIB),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak"),
]


def test_no_larger_batches_can_be_set() -> None:
    assert CsvSettings.model_validate(MAXIMA)
    for name, value in MAXIMA.items():
        with pytest.raises(ValueError, match="less than or equal"):
            CsvSettings.model_validate({name: value + 1})


@pytest.mark.parametrize("settings", [DEFAULTS, MAXIMA], ids=["defaults", "maxima"])
def test_cutting_a_large_file(store: Store, mongodb_uri: str, settings: dict[str, int]) -> None:
    stream = Stream(STREAM_MIB * MIB // USUAL_ROW_BYTES, USUAL_ROW_BYTES, "1.0000", 1)
    run_id, input_id = stream.opened(store)
    peak = peak_mib(store, mongodb_uri, stream, "extract", run_id, input_id, **settings)
    totals = store.batches.aggregate([{"$group": {"_id": None, "rows": {"$sum": "$rows"}}}])
    assert next(totals)["rows"] == stream.rows
    print(f"cutting {STREAM_MIB} MiB: {peak:.0f} MiB")  # noqa: T201 - seen with -s
    assert peak < LIMIT_MIB


@pytest.mark.parametrize(
    "settings",
    [pytest.param(DEFAULTS, id="defaults"), *[pytest.param(MAXIMA, id="maxima")] * LONG],
)
def test_loading_the_largest_batch(
    store: Store,
    mongodb_uri: str,
    settings: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of new rows, then of as many changed ones, the same ones again, and as many bad ones."""
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), str(value))
    rows = settings["batch_rows"]
    outcomes = {
        "inserted": "1.0000",
        "updated": "2.0000",
        "unchanged": "2.0000",
        "quarantined": "0.0000",
    }
    peaks = {}
    for version, (outcome, price) in enumerate(outcomes.items()):
        stream = Stream(rows, settings["batch_bytes"] // rows, price, version)
        run_id, input_id = stream.opened(store)
        assert stream.extract(store, run_id, input_id) == [0]
        peaks[outcome] = round(peak_mib(store, mongodb_uri, stream, "load", run_id, input_id, 0))
        batch = store.batches.find_one({"run_id": run_id})
        assert batch is not None
        counts: Document = batch["counts"]
        assert (batch["state"], counts[outcome]) == ("loaded", rows)
        # Compared with the former version, which then is in memory as well.
        assert batch.get("passed_over", 0) == (rows if outcome == "unchanged" else 0)
        store.runs.update_one({"_id": run_id}, {"$set": {"status": "x"}, "$unset": {"holds": ""}})
    print(f"loading {rows} rows:", peaks)  # noqa: T201 - seen with -s
    assert max(peaks.values()) < LIMIT_MIB
