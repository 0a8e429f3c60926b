"""`/quarantine` over a real MongoDB."""

from __future__ import annotations

from typing import Any

from marketdata.store.connection import Store
from tests.support.gateway import Gateway, ok
from tests.support.records import (
    make_batch,
    make_quarantined,
    make_run,
)


def test_what_was_set_aside(gateway: Gateway, store: Store) -> None:
    rows = [
        make_quarantined(
            n,
            run_id=f"run{n % 3}",
            source=("coingecko", "coinpaprika")[n % 2],
            reason=("greater_than", "timestamp_in_future")[n % 4 // 2],
        )
        for n in range(20)
    ]
    rows.append(make_quarantined(20, row='"' + "x" * 9_000 + '"'))
    store.quarantine.insert_many(rows)
    for number, batch in enumerate(sorted({row["batch"] for row in rows})):
        run_id, source, _ = batch.split("/")
        run = make_run(number, source=source) | {"_id": run_id}
        # All rows are of one raw batch, that of number 0.
        store.batches.insert_one(make_batch(run, quarantined=10))

    def found(**query: Any) -> list[int]:
        body = ok(gateway.get("/quarantine", **query, limit=4))
        data = body["data"]
        while body["pagination"]["has_more"]:
            body = ok(gateway.get("/quarantine", limit=4, cursor=body["pagination"]["next_cursor"]))
            data += body["data"]
        return [row["row_number"] for row in data]

    assert found() == list(range(21))
    assert found(run_id="run1") == list(range(1, 20, 3))
    assert found(source="coinpaprika") == list(range(1, 20, 2))
    assert found(reason="timestamp_in_future") == [n for n in range(20) if n % 4 > 1]
    assert found(run_id="run0", source="coingecko", reason="greater_than") == [0, 12]
    whole = ok(gateway.get("/quarantine"))["data"]
    assert (whole[0]["row"], whole[0]["truncated"]) == ('{"id": "bad"}', False)
    assert (len(whole[20]["row"]), whole[20]["truncated"]) == (4_000, True)
    cursor = ok(gateway.get("/quarantine", limit=1))["pagination"]["next_cursor"]
    assert gateway.get("/quarantine", cursor=cursor, reason="other").status == 400
