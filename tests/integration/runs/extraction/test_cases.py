"""The small files of kinds that went wrong, from the bucket to records in a real mongod."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from marketdata.store.connection import Store
from tests.support.recorded import FOLDER
from tests.support.uploads import Bucket, carry_out, totals

CASES = FOLDER.parent / "cases"
EXPECTED: dict[str, Any] = (
    json.loads((CASES / "expected.json").read_text("utf-8")) if CASES.exists() else {}
)


@pytest.mark.parametrize("name", [name for name, one in EXPECTED.items() if "records" in one])
def test_a_file_is_loaded_as_what_is_right(store: Store, bucket: Bucket, name: str) -> None:
    expected = EXPECTED[name]
    run = carry_out(store, bucket.put(f"incoming/{name}", (CASES / name).read_bytes()))

    assert run["results"][0]["status"] in ("success", "failed")
    stored = list(store.market_data.find().sort([("_id", 1)]))
    distinct = {(one.get("symbol"), one["timestamp"]) for one in expected["records"]}
    assert len(stored) == len(distinct)
    for right in expected["records"][-1:] if len(distinct) == 1 else expected["records"]:
        (record,) = [
            one
            for one in stored
            if one["symbol"] == right["symbol"]
            and one["timestamp"] == datetime.fromisoformat(right["timestamp"])
        ]
        for field in right.keys() - {"timestamp"}:
            assert record.get(field) == right[field], field
    if "quarantined" in expected:
        assert run["totals"]["quarantined"] == expected["quarantined"]
    if "reason" in expected:
        assert set(store.quarantine.distinct("reason")) == {expected["reason"]}


@pytest.mark.skipif(not EXPECTED, reason="the cases are not here")
def test_a_table_that_is_dumped_again_changes_nothing(store: Store, bucket: Bucket) -> None:
    for name, outcome in (
        ("sql_row_number_id.csv", {"inserted": 4}),
        ("sql_row_number_id_dumped_again.csv", {"unchanged": 4}),
    ):
        event = bucket.put(f"incoming/{name}", (CASES / name).read_bytes())
        assert totals(carry_out(store, event)) == outcome
