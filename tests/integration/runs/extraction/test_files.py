"""Uploaded CSVs, from the object in S3 to records in a real mongod."""

from __future__ import annotations

import csv
import gzip
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from local.replay.csv_sample import SAMPLE_ROWS, sample_csv
from marketdata.aws.s3_objects import S3Objects
from marketdata.documents.errors import StoredError
from marketdata.errors import (
    MarketDataError,
    StateConflict,
    StoreFull,
    StoreRefused,
    TransientError,
)
from marketdata.load.loader import load_batch
from marketdata.load.raw import unpack
from marketdata.load.reading import read
from marketdata.objects import ObjectVersion, OpenObject
from marketdata.runs import closing, failures
from marketdata.runs.extraction import files
from marketdata.settings import CsvSettings
from marketdata.store import alerts, run_inputs
from marketdata.store.batches import queue
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.uploads import (
    BUCKET,
    HEADER,
    WHOLE,
    Bucket,
    carry_out,
    cut_some,
    extract,
    finish,
    keys,
    open_with_bucket,
    records,
    rows,
    totals,
)
from tests.support.waiting import wait_for

# --- from upload to records ---------------------------------------------------------------------


def test_the_sample_loads_whole(store: Store, bucket: Bucket) -> None:
    assert totals(carry_out(store, bucket.put("incoming/s.csv", sample_csv()), WHOLE)) == {
        "inserted": SAMPLE_ROWS
    }
    assert totals(carry_out(store, bucket.put("incoming/s.csv", sample_csv()), WHOLE)) == {
        "unchanged": SAMPLE_ROWS
    }


def test_raw_batches_hold_the_objects_very_bytes_and_all_that_reading_takes(
    store: Store, bucket: Bucket
) -> None:
    body = "\ufeffticker,usd_price,time\r\n" + 'a,1,1502928000\r\n"b\n",2,1502928000000\r\n' * 4
    event = bucket.put("incoming/prices.csv", body, dataset="desk 7")

    run = carry_out(store, event)

    raw: list[Document] = list(store.raw_batches.find().sort("first_row"))
    assert body.encode().endswith(b"".join(unpack(document) for document in raw))
    assert [document["first_row"] for document in raw] == [0, 3, 6]
    version = event["detail"]["object"]["version-id"]
    for document in raw:
        assert document["origin"]["bucket"] == BUCKET
        assert document["origin"]["key"] == "incoming/prices.csv"
        assert document["origin"]["version_id"] == document["version"] == version
        start, end = document["origin"]["range"]
        assert body.encode()[start:end] == unpack(document)
        (reading,) = read(document, unpack(document), 1_000)
        assert reading.rows == document["rows"]
        assert document["layout"]["dataset"] == "desk 7"
    (result,) = run["results"]
    assert result["batches"] == 3
    # Two records, each seen four times with the same values.
    assert (run["totals"]["inserted"], run["totals"]["rows_in"]) == (2, 8)


@pytest.mark.parametrize("ending", ["csv.gz", "csv", "CSV.GZ"])
def test_a_packed_file_is_what_it_is_unpacked(store: Store, bucket: Bucket, ending: str) -> None:
    body = HEADER + rows(10) + "bad,row\n"
    plain = carry_out(store, bucket.put("incoming/plain.csv", body))
    was = records(store)
    store.market_data.delete_many({})

    packed = carry_out(store, bucket.put(f"incoming/x.{ending}", gzip.compress(body.encode())))

    assert packed["totals"] == plain["totals"]
    assert records(store) == was


def test_what_is_wrong_with_single_rows_costs_these_rows(store: Store, bucket: Bucket) -> None:
    body = (
        "symbol,price_usd,timestamp\n"
        "A,1,2025-05-09\n"
        "B,1\n"
        'C,"1,2025-05-09\n'
        "D,-1,2025-05-09\n"
        "\n"
        "E,1,2025-05-09,more\n"
        "F,1,9.5.\n"
        "G,1,2099-01-01\n"
        "H,1,2025-05-09"
    )

    run = carry_out(store, bucket.put("incoming/prices.csv", body))

    assert totals(run) == {"inserted": 2, "quarantined": 6}
    assert run["status"] == "success"
    aside = {q["row_number"]: q for q in store.quarantine.find()}
    assert {number: q["reason"] for number, q in aside.items()} == {
        1: "ragged_row",
        2: "malformed_row",
        3: "greater_than",
        4: "ragged_row",
        5: "timestamp_not_understood",
        6: "timestamp_in_future",
    }
    assert aside[1]["row"] == '["B", "1"]'
    assert aside[2]["row"] == '"C,\\"1,2025-05-09"'
    assert aside[3]["row"] == '{"symbol": "D", "price_usd": "-1", "timestamp": "2025-05-09"}'


def test_columns_are_told_of_in_the_run(
    store: Store, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    body = "Ticker,Price USD,price_btc,colour of it,created_at\nA,1,2,red,2025-05-09\n"

    run = carry_out(store, bucket.put("incoming/prices.csv", body))

    (note,) = run["inputs"].values()
    assert [(m["from"], m["to"], m["confidence"]) for m in run["applied_mappings"]] == [
        ("Ticker", "symbol", 1.0),
        ("Price USD", "price_usd", 1.0),
        ("created_at", "timestamp", 1.0),
    ]
    assert run["quarantined_mappings"] == []
    assert [(m["from"], m["reason"]) for m in run["skipped_mappings"]] == [
        ("price_btc", "column 'Price USD' is the price"),
        ("colour of it", "no field of the record is meant by it"),
    ]
    assert [w.split(" is not used: ")[0] for w in note["warnings"]] == [
        "Column 'price_btc'",
        "Column 'colour of it'",
    ]
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == note["warnings"]
    assert {m["input"] for m in run["applied_mappings"]} == set(run["inputs"])


def test_warnings_add_up_and_unused_columns_are_named_up_to_a_number(
    store: Store, bucket: Bucket
) -> None:
    more = ",".join(f"colour {n}" for n in range(25))

    run = carry_out(store, bucket.put("incoming/a.csv", f"symbol,price_usd,timestamp,{more}\n"))

    (note,) = run["inputs"].values()
    assert len(note["warnings"]) == 22
    assert note["warnings"][-2:] == [
        "5 more columns are not used.",
        "The file has a header and no rows.",
    ]
    assert len(run["skipped_mappings"] + run["quarantined_mappings"]) == 25


# --- identity, datasets, versions ---------------------------------------------------------------


def test_same_bytes_under_another_key_are_known_and_of_another_dataset_are_new(
    store: Store, bucket: Bucket
) -> None:
    body = HEADER + rows(5)
    assert totals(carry_out(store, bucket.put("incoming/a.csv", body))) == {"inserted": 5}
    assert totals(carry_out(store, bucket.put("incoming/b.csv", body))) == {"unchanged": 5}
    other = carry_out(store, bucket.put("incoming/c.csv", body, dataset="other"))
    assert totals(other) == {"inserted": 5}
    assert sorted(store.market_data.distinct("dataset")) == ["csv", "other"]


def test_the_source_column_goes_before_the_metadata(store: Store, bucket: Bucket) -> None:
    body = "symbol,price_usd,timestamp,source\nA,1,2025-05-09,Kaggle\nA,2,2025-05-09,\n"

    carry_out(store, bucket.put("incoming/a.csv", body, dataset="mine"))

    found = {r["dataset"]: r["price_usd"] for r in store.market_data.find()}
    assert found == {"Kaggle": 1.0, "mine": 2.0}


@pytest.mark.parametrize("newest_first", [False, True])
def test_versions_of_a_key_give_one_winner_whatever_the_order_of_loading(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, *, newest_first: bool
) -> None:
    """Both are mostly of one second here, and then the version id decides."""
    prices = {}
    for price in (1.5, 7.0):
        event = bucket.put("incoming/a.csv", HEADER + rows(3, price=price))
        prices[event["detail"]["object"]["version-id"]] = (price, event)
    listed = bucket.client.list_object_versions(Bucket=BUCKET)["Versions"]
    newest = max((v["LastModified"].replace(microsecond=0), v["VersionId"]) for v in listed)[1]
    # Each is taken while it is the newest; what loads it may come late.
    monkeypatch.setattr(S3Objects, "current", lambda _, version: version.version_id)
    expected, last = prices[newest]
    first = next(event for _, event in prices.values() if event is not last)

    order = [last, first] if newest_first else [first, last]
    results = [carry_out(store, event) for event in order]

    assert [totals(result) for result in results] == [{"inserted": 3}, {"updated": 3}]
    (record,) = store.market_data.find({"symbol": "S0"})
    (latest,) = store.latest_prices.find({"symbol": "S0"})
    assert record["price_usd"] == latest["price_usd"] == expected
    assert record["version"] == latest["version"] == newest
    assert record["revision"] == 2
    assert {record["price_usd"], record["history"][0]["price_usd"]} == {1.5, 7.0}


# --- what a run takes ---------------------------------------------------------------------------


def test_an_extractor_that_outlives_its_run_writes_and_takes_back_nothing(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SAVED_TOGETHER", 1)
    opened = open_with_bucket(store, bucket.put("incoming/a.csv", HEADER + rows(12)))
    (item,) = opened["inputs"]
    calls: list[None] = []

    def remaining() -> float:
        calls.append(None)
        if len(calls) == 3:
            closing.close(store, opened["run_id"])
        return 600

    with pytest.raises(StateConflict, match="has ended"):
        extract(store, item["run_id"], item["input"], remaining=remaining)
    left = [batch["number"] for batch in store.batches.find().sort("number")]
    assert left == [0, 1]
    # The next run goes on after these, and every row is loaded once.
    run = carry_out(store, hourly_event())
    assert (run["status"], totals(run)) == ("success", {"inserted": 12})


def test_a_file_with_known_content_is_skipped_and_says_so(store: Store, bucket: Bucket) -> None:
    body = HEADER + rows(5)
    assert carry_out(store, bucket.put("incoming/a.csv", body))["results"][0]["reason"] is None
    # S3 tells times in seconds, and of two versions of one second it does not say which came first.
    second = int(time.time())
    wait_for(lambda: int(time.time()) > second, seconds=5, what="the next second")
    run = carry_out(store, bucket.put("incoming/a.csv", body))
    (result,) = run["results"]
    assert (run["status"], result["status"], result["error"]) == ("success", "skipped", None)
    assert "Nothing had changed" in result["reason"]
    assert totals(run) == {"unchanged": 5}
    found = store.objects.find_one({"_id": result["input"]})
    assert found is not None
    assert found["state"] == "done"


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"symbol,colour,time\nA,red,2025-05-09\n", "no column with a price"),
        (b"1672531200000,16541.77,16545.70\n1672534800000,1,2\n", "no header"),
        (b"open;high;low\n1;2;3\n", "no column with the time"),
        (HEADER.encode() + rows(9).encode() + b"\x81,,,,,,\n", "not UTF-8"),
        (HEADER.encode() + rows(9).encode() + b"x" * 2_000_000, "line of more than"),
        # Without the time in its header: each worker makes the tests' names anew.
        (gzip.compress(HEADER.encode() + rows(9).encode(), mtime=0)[:-4], "cut off"),
        (b"PK\x03\x04", "Excel"),
        (",".join(f"column {n}" for n in range(501)).encode(), "501 columns"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_whole(
    store: Store, bucket: Bucket, body: bytes, reason: str
) -> None:
    run = carry_out(store, bucket.put("incoming/bad.csv", body))

    (result,) = run["results"]
    assert run["status"] == result["status"] == "failed"
    assert reason in result["error"]["message"]
    assert "s3://uploads/incoming/bad.csv" in result["error"]["message"]
    assert store.market_data.count_documents({}) == store.batches.count_documents({}) == 0
    # It is taken all the same: the next run does not try it again.
    assert keys(store, open_with_bucket(store, hourly_event(), "coingecko")) == set()


@pytest.mark.parametrize(
    "body",
    [b"", b"\xef\xbb\xbf", b"\n\n\r\n", gzip.compress(b"", mtime=0)],
    ids=["no byte", "a byte order mark", "blank lines", "packed"],
)
def test_an_empty_file_is_skipped_and_nobody_is_alarmed(
    store: Store, bucket: Bucket, body: bytes
) -> None:
    for _ in range(4):
        run = carry_out(store, bucket.put("incoming/placeholder.csv", body))
        (result,) = run["results"]
        assert (run["status"], result["status"], result["error"]) == ("success", "skipped", None)
        (note,) = run["inputs"].values()
        assert "is empty" in note["reason"]
        assert "s3://uploads/incoming/placeholder.csv" in note["reason"]
    assert alerts.failures(store) == []
    assert keys(store, open_with_bucket(store, hourly_event(), "coingecko")) == set()
    # The real file follows.
    run = carry_out(store, bucket.put("incoming/placeholder.csv", HEADER + rows(3)))
    assert totals(run) == {"inserted": 3}


def test_a_version_that_a_newer_one_has_followed_is_skipped(store: Store, bucket: Bucket) -> None:
    old = bucket.put("incoming/a.csv", "no CSV of ours\n")
    new = bucket.put("incoming/a.csv", HEADER + rows(3))
    newest = new["detail"]["object"]["version-id"]

    run = carry_out(store, old)

    (result,) = run["results"]
    assert (run["status"], result["status"], result["error"]) == ("success", "skipped", None)
    (note,) = run["inputs"].values()
    assert f"a newer version of it is there: {newest}" in note["reason"]
    assert totals(carry_out(store, new)) == {"inserted": 3}


def test_a_version_that_is_begun_goes_on_when_a_newer_one_comes(
    store: Store, bucket: Bucket
) -> None:
    opened = open_with_bucket(store, bucket.put("incoming/a.csv", HEADER + rows(9)))
    (item,) = opened["inputs"]
    cut_some(store, item)
    bucket.put("incoming/a.csv", HEADER + rows(1))
    finish(store, opened)
    assert store.market_data.count_documents({}) == 9


def test_a_version_that_a_delete_marker_hides_is_loaded(store: Store, bucket: Bucket) -> None:
    event = bucket.put("incoming/a.csv", HEADER + rows(3))
    bucket.client.delete_object(Bucket=BUCKET, Key="incoming/a.csv")
    assert totals(carry_out(store, event)) == {"inserted": 3}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("=?UTF-8?B?QsO2cnNlIDc=?=", "Börse 7"),
        ("=?UTF-8?Q?B=C3=B6rse_7?=", "Börse 7"),
        ("desk 7", "desk 7"),
        # What is broken is kept: all of it, and as it is.
        *(
            (broken, broken)
            for broken in (
                "=?no-such-charset?B?QQ==?=",
                "=?rot13?Q?abc?=",
                "=?unknown-8bit?Q?=E4?=",
                "=?utf-8?Q?=ZZ?=",
                "=?utf-8?Q?a=5?=",
                "=?utf-8?Q?=C3?=",
                "=?utf-8?Q??=",
                "=?utf-8?B?!!!?=",
                "=?utf-8?B?w/8=?=",
                "=?utf-8?B??=",
                "=?utf-8?Q?fine?= =?utf-8?Q?=ZZ?=",
            )
        ),
    ],
)
def test_the_metadata_is_read_as_it_was_given(
    store: Store, bucket: Bucket, given: str, read: str
) -> None:
    carry_out(store, bucket.put("incoming/a.csv", HEADER + rows(1), dataset=given))
    assert store.market_data.distinct("dataset") == [read]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 257, "has 257 characters, and 256 is the most"),
        ("=?UTF-8?B?YQBi?=", "has characters that nobody sees"),
        ("=?UTF-8?B?YeKAi2I=?=", "has characters that nobody sees"),
        ("=?UTF-8?B?YeOFpGI=?=", "has characters that nobody sees"),
        ("=?UTF-8?B?YQpi?=", "has characters that nobody sees"),
    ],
)
def test_a_name_of_a_data_set_that_is_none_is_refused_for_the_file(
    store: Store, bucket: Bucket, name: str, says: str
) -> None:
    run = carry_out(store, bucket.put("incoming/a.csv", HEADER + rows(1), dataset=name))
    (result,) = run["results"]
    assert (result["status"], result["error"]["code"]) == ("failed", "file_refused")
    assert "metadata `dataset`" in result["error"]["message"]
    assert says in result["error"]["message"]
    assert store.market_data.count_documents({}) == 0


def test_symbols_that_look_alike_are_one_asset(store: Store, bucket: Bucket) -> None:
    blanks = ("", "\u3164", "\ufe0f", "\u2800", "\U000e0041", "\u034f")
    body = HEADER + "".join(f"BT{c}C,{c},1.5,,,,2025-05-09T06:00:00Z\n" for c in blanks)
    run = carry_out(store, bucket.put("incoming/a.csv", body), WHOLE)
    assert totals(run) == {"inserted": 1, "duplicate": len(blanks) - 1}
    (found,) = records(store)
    assert (found["symbol"], found["name"]) == ("BTC", None)


def test_a_bad_file_does_not_stop_a_good_one(store: Store, bucket: Bucket) -> None:
    bucket.put("incoming/bad.csv", "nothing\n")
    bucket.put("incoming/good.csv", HEADER + rows(4))

    run = carry_out(store, hourly_event())

    assert run["status"] == "partial_success"
    assert sorted(r["status"] for r in run["results"]) == ["failed", "success"]
    assert totals(run) == {"inserted": 4}


def test_a_header_alone_is_no_failure(store: Store, bucket: Bucket) -> None:
    run = carry_out(store, bucket.put("incoming/a.csv", HEADER))

    assert run["status"] == "success"
    (note,) = run["inputs"].values()
    assert note["warnings"] == ["The file has a header and no rows."]


def test_a_packed_file_that_is_too_large_is_refused_with_the_way_out(
    store: Store, bucket: Bucket
) -> None:
    event = bucket.put("incoming/a.csv.gz", gzip.compress((HEADER + rows(59) * 50).encode()))

    run = carry_out(store, event, CsvSettings(batch_rows=10, csv_gzip_max_bytes=10_000))

    assert "upload it unpacked" in run["results"][0]["error"]["message"]
    assert store.market_data.count_documents({}) == 0


def test_a_version_that_was_deleted_meanwhile_fails_with_the_reason(
    store: Store, bucket: Bucket
) -> None:
    event = bucket.put("incoming/a.csv", HEADER + rows(4))
    opened = open_with_bucket(store, event)
    (item,) = opened["inputs"]
    version = event["detail"]["object"]["version-id"]
    extracted = extract(store, item["run_id"], item["input"])
    bucket.client.delete_object(Bucket=BUCKET, Key="incoming/a.csv", VersionId=version)
    for number in extracted.numbers:
        with pytest.raises(Exception, match="is not there"):
            load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    assert closing.close(store, opened["run_id"])["status"] == "failed"


# --- interruptions ------------------------------------------------------------------------------


class Faulty:
    """A reader that breaks off after so many bytes, a few times."""

    def __init__(self, *, after: int, times: int) -> None:
        self._objects = S3Objects()
        self._after = after
        self._times = times

    @contextmanager
    def open(self, version: ObjectVersion, start: int = 0) -> Iterator[OpenObject]:
        with self._objects.open(version, start) as opened:
            yield replace(opened, chunks=self._broken(opened.chunks))

    def read(self, version: ObjectVersion, start: int, end: int) -> bytes:
        return self._objects.read(version, start, end)

    def _broken(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        data = b"".join(chunks)
        for at in range(0, len(data), 1000):
            if at >= self._after and self._times:
                self._times -= 1
                raise TransientError("S3 broke off")
            yield data[at : at + 1000]


def big(rows_wanted: int) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["symbol", "name", "price_usd", "timestamp"])
    for number in range(rows_wanted):
        writer.writerow([f"S{number}", f'Co"in\n{number}', number + 1, 1_500_000_000 + number])
    return out.getvalue().encode()


def batches(store: Store, run_id: str) -> list[Document]:
    fields = {"_id": 0, "number": 1, "raw_id": 1, "first_row": 1, "rows": 1, "cut": 1}
    return list(store.batches.find({"run_id": run_id}, fields).sort("number"))


@pytest.mark.parametrize("packed", [False, True])
def test_an_extraction_that_is_interrupted_goes_on_where_it_was(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, *, packed: bool
) -> None:
    monkeypatch.setattr(files, "_SAVED_TOGETHER", 5)
    body = big(700)
    data = gzip.compress(body) if packed else body
    settings = CsvSettings(batch_rows=35)
    whole = open_with_bucket(store, bucket.put("incoming/whole.csv", data))
    extract(store, whole["run_id"], whole["inputs"][0]["input"], settings)
    broken = open_with_bucket(store, bucket.put("incoming/broken.csv", data))
    (item,) = broken["inputs"]

    states = []
    objects = Faulty(after=4000, times=3)
    left = iter([600.0] * 8 + [1.0] + [600.0] * 4 + [5.0] + [600.0] * 1000)
    while "extracted" not in states:
        try:
            extracted = extract(
                store,
                item["run_id"],
                item["input"],
                settings,
                objects=objects,
                remaining=lambda: next(left),
            )
            states.append(str(extracted.state))
        except TransientError:
            states.append("broken")

    assert states.count("broken") == 3
    assert states.count("again") == 2
    assert len(extracted.numbers) == 20

    def shape(run: Document) -> list[Document]:
        return [{k: v for k, v in b.items() if k != "raw_id"} for b in batches(store, run)]

    assert shape(broken["run_id"]) == shape(whole["run_id"])
    for number in extracted.numbers:
        load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    run = closing.close(store, broken["run_id"])
    assert totals(run) == {"inserted": 700}


@pytest.mark.parametrize(
    ("where", "at"), [("take_numbers", 1), ("take_numbers", 2), ("set_input_if_unchanged", 3)]
)
@pytest.mark.parametrize("late_rows", [2, 9])
def test_two_calls_that_cut_a_file_differently_leave_the_cut_of_one(
    store: Store,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    at: int,
    late_rows: int,
) -> None:
    """One was given up by Lambda and goes on; the other came after a deployment."""
    monkeypatch.setattr(files, "_SAVED_TOGETHER", 2)
    opened = open_with_bucket(store, bucket.put("incoming/a.csv", HEADER + rows(20)))
    (item,) = opened["inputs"]
    ended = []
    real, calls = getattr(run_inputs, where), 0

    def late(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            # What the one that is behind has noted by now counts.
            monkeypatch.setattr(run_inputs, where, real)
            ended.append(extract(store, item["run_id"], item["input"]))
        return real(*args)

    monkeypatch.setattr(run_inputs, where, late)
    behind = CsvSettings(batch_rows=late_rows)
    assert extract(store, item["run_id"], item["input"], behind).state == "again"
    found = extract(store, item["run_id"], item["input"], behind)
    assert [found] == ended
    cut = list(store.batches.find({}).sort("number"))
    assert [b["number"] for b in cut] == found.numbers == list(range(len(cut)))
    ranges = [b["range"] for b in cut]
    assert [first for first, _ in ranges[1:]] == [last for _, last in ranges[:-1]]
    for number in found.numbers:
        load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    run = closing.close(store, item["run_id"])
    assert totals(run) == {"inserted": 20}
    assert run["status"] == "success"


@pytest.mark.parametrize("error", [StoreRefused("not allowed"), StoreFull("no room")])
def test_what_the_database_refuses_is_no_fault_of_the_file(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, error: MarketDataError
) -> None:
    event = bucket.put("incoming/a.csv", HEADER + rows(7))
    (item,) = open_with_bucket(store, event)["inputs"]

    def refuse(*_: Any) -> None:
        raise error

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(queue, "put_batches", refuse)
            with pytest.raises(type(error)):
                extract(store, item["run_id"], item["input"])
        run: Document = closing.close(store, item["run_id"], most_resumptions=0)
        assert run["inputs"][item["input"]]["status"] == "extracting"
        assert run["results"][0]["error"]["code"] == error.code
        # However often that happens, the file is not given up.
        (item,) = open_with_bucket(store, hourly_event())["inputs"]
    assert extract(store, item["run_id"], item["input"]).state == "extracted"


def test_extracting_again_when_done_changes_nothing(store: Store, bucket: Bucket) -> None:
    opened = open_with_bucket(store, bucket.put("incoming/a.csv", HEADER + rows(7)))
    (item,) = opened["inputs"]
    first = extract(store, item["run_id"], item["input"])
    was = batches(store, item["run_id"])

    assert extract(store, item["run_id"], item["input"]) == first
    assert batches(store, item["run_id"]) == was


def test_loading_a_batch_again_keeps_its_counts_and_its_raw(store: Store, bucket: Bucket) -> None:
    opened = open_with_bucket(store, bucket.put("incoming/a.csv", HEADER + rows(3)))
    (item,) = opened["inputs"]
    (number,) = extract(store, item["run_id"], item["input"]).numbers
    key = BatchKey(item["run_id"], item["input"], number)
    counts = load_batch(store, key, S3Objects())
    store.batches.update_one({"_id": key.id}, {"$set": {"state": "loading"}})

    assert load_batch(store, key, S3Objects()) == counts
    assert store.raw_batches.count_documents({}) == 1


def test_nothing_of_a_file_is_loaded_before_all_of_it_was_seen(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its extraction fails half-way: the rest of the file may say that it is to be refused."""
    monkeypatch.setattr(files, "_SAVED_TOGETHER", 2)
    first = open_with_bucket(store, bucket.put("incoming/a.csv", HEADER + rows(20)))
    (item,) = first["inputs"]
    error: StoredError = {"code": "transient", "message": "S3 did not answer"}
    cut_some(store, item)
    assert failures.note_failure(store, item["run_id"], item["input"], error) == []
    closing.close(store, first["run_id"])

    second = open_with_bucket(store, hourly_event())
    (item,) = second["inputs"]
    # Nor what an earlier run has left of it.
    assert store.batches.count_documents({"run_id": second["run_id"]}) > 0
    assert failures.note_failure(store, item["run_id"], item["input"], error) == []
    whole = extract(store, item["run_id"], item["input"])
    assert failures.note_failure(store, item["run_id"], item["input"], error) == whole.numbers


def test_an_overtaken_call_takes_nothing_back_of_what_its_run_took_over(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SAVED_TOGETHER", 2)
    event = bucket.put("incoming/a.csv", HEADER + rows(20))
    first = open_with_bucket(store, event)
    (item,) = first["inputs"]
    cut_some(store, item)
    closing.close(store, first["run_id"])
    inherited = store.batches.count_documents({})

    second = open_with_bucket(store, hourly_event())
    (item,) = second["inputs"]
    real = queue.put_batches

    def late(*args: Any) -> None:
        # Another call of the same step does all of it meanwhile.
        monkeypatch.setattr(queue, "put_batches", real)
        extract(store, item["run_id"], item["input"])
        real(*args)

    monkeypatch.setattr(queue, "put_batches", late)
    extract(store, item["run_id"], item["input"])
    taken = {"run_id": second["run_id"], "first_run_id": first["run_id"]}
    assert store.batches.count_documents(taken) == inherited > 0
    for number in extract(store, item["run_id"], item["input"]).numbers:
        load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    assert closing.close(store, second["run_id"])["totals"]["rows_in"] == 20
    assert store.market_data.count_documents({}) == 20


def test_what_an_overtaken_call_writes_after_the_end_is_not_loaded(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_with_bucket(store, bucket.put("incoming/a.csv", HEADER + rows(20)))
    (item,) = opened["inputs"]
    cleared, late = queue.drop_pending_from, []

    def drop(opened: Store, input_id: str, run_id: str, number: int, **which: Any) -> None:
        cleared(opened, input_id, run_id, number, **which)
        if not which:
            # The end is noted. A call that had claimed numbers before, and cuts otherwise:
            cut: Document = store.batches.find_one({"number": 0})
            assert cut is not None
            kept = ("source", "raw_id", "place", "rows", "first_row", "received_at")
            late.append(number)
            batch: Document = {name: cut[name] for name in kept} | {"number": number}
            queue.put_batches(opened, input_id, run_id, [batch], 1)

    monkeypatch.setattr(queue, "drop_pending_from", drop)
    numbers = extract(store, item["run_id"], item["input"]).numbers
    assert late == [len(numbers)]
    assert store.batches.count_documents({}) == len(numbers) + 1
    assert numbers == list(range(len(numbers)))
    assert extract(store, item["run_id"], item["input"]).numbers == numbers
    for number in numbers:
        load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    run = closing.close(store, item["run_id"])
    assert (run["status"], run["totals"]["extracted"]) == ("success", 20)
    assert store.batches.count_documents({}) == len(numbers)
