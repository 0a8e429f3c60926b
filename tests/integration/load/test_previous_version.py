"""A file is uploaded again: lines that it had before are skipped, which is never wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from marketdata.documents.batches import Counts
from marketdata.load import known_content, raw_rows
from marketdata.load.late_arrivals import LateArrivals
from marketdata.load.loader import load_batch, load_within
from marketdata.schema.identity import time_of
from marketdata.store import market_data
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.raw_batches import save_raw
from tests.bench.files import Upload
from tests.support.documents import Document
from tests.support.reference import Lines, reference_lines

HEADER = "symbol,price_usd,timestamp\n"
FIRST = datetime(2025, 5, 10, tzinfo=UTC)
COINS = [f"C{number}" for number in range(10)]

type Row = tuple[str, float, str]
"""Coin, price, day."""


def upload(
    store: Store,
    rows: Sequence[Row],
    minute: int,
    *,
    key: str = "prices",
    name: str = "",
    batch_rows: int = 100,
) -> Upload:
    """A version of a file, cut into batches."""
    lines = [f"{coin},{price},{day}\n" for coin, price, day in rows]
    return Upload(
        store,
        (HEADER + "".join(lines)).encode(),
        name=name or f"{minute}",
        key=key,
        received=FIRST + timedelta(minutes=minute),
        batch_rows=batch_rows,
    )


def on(day: str, coins: Sequence[str] = COINS, **prices: float) -> list[Row]:
    """A row of each coin on a day; most have the price 1."""
    return [(coin, prices.get(coin, 1.0), day) for coin in coins]


MONDAY, TUESDAY = on("2025-05-05"), on("2025-05-06")


def changed(rows: Sequence[Row], **prices: float) -> list[Row]:
    return [(coin, prices.get(coin, price), day) for coin, price, day in rows]


def batches_of(store: Store, file: Upload) -> list[Document]:
    return list(store.batches.find({"run_id": file.run_id}).sort("number"))


def skipped(store: Store, file: Upload) -> list[int]:
    """Of each batch the rows that nobody read."""
    return [batch.get("passed_over", 0) for batch in batches_of(store, file)]


def line_of(store: Store, coin: str, day: str = "2025-05-05") -> list[float]:
    """The prices of a record, oldest first."""
    query = {"symbol": coin, "timestamp": datetime.fromisoformat(day)}
    (record,) = store.market_data.find(query)
    return [s["price_usd"] for s in (*record.get("history", ()), record)]


def test_lines_of_the_previous_version_are_skipped(store: Store) -> None:
    first, second = upload(store, MONDAY, 0), upload(store, changed(MONDAY, C3=2.0), 1)
    assert first.load() == Counts(rows_in=10, inserted=10)
    assert second.load() == Counts(rows_in=10, updated=1, unchanged=9)
    assert (skipped(store, first), skipped(store, second)) == ([0], [9])
    assert line_of(store, "C3") == [1.0, 2.0]
    # That one was changed does not keep the next version from being compared with it.
    third = upload(store, changed(MONDAY, C3=2.0, C4=3.0), 2)
    assert third.load() == Counts(rows_in=10, updated=1, unchanged=9)
    assert skipped(store, third) == [9]


def test_a_file_that_has_grown_and_shrunk(store: Store) -> None:
    upload(store, [*MONDAY, *TUESDAY], 0, batch_rows=10).load()
    # A row in front has moved all others by one, the last of each batch into the next.
    grown = upload(store, [("NEW", 5.0, "2025-05-05"), *MONDAY, *TUESDAY[2:]], 1, batch_rows=10)
    assert grown.load() == Counts(rows_in=19, inserted=1, unchanged=18)
    assert skipped(store, grown) == [9, 0]
    assert store.market_data.count_documents({}) == 21


def test_a_value_that_comes_back(store: Store) -> None:
    files = [
        upload(store, changed(MONDAY, C3=price), minute)
        for minute, price in enumerate([1.0, 2.0, 1.0, 1.0, 1.0])
    ]
    for file in files:
        file.load()
    # What is as it was two times running is skipped as a whole.
    assert [skipped(store, file) for file in files] == [[0], [9], [9], [10], [0]]
    assert [batch.get("skipped") for batch in batches_of(store, files[-1])] == [True]
    assert line_of(store, "C3") == [1.0, 2.0, 1.0]


def test_what_another_file_has_said_since_is_looked_at(store: Store) -> None:
    upload(store, MONDAY, 0).load()
    upload(store, on("2025-05-05", C5=9.0), 1, key="other").load()
    again = upload(store, changed(MONDAY, C3=2.0), 2)
    assert again.load() == Counts(rows_in=10, updated=2, unchanged=8)
    assert skipped(store, again) == [0]
    assert line_of(store, "C5") == [1.0, 9.0, 1.0]


def test_lines_of_another_time_are_skipped_all_the_same(store: Store) -> None:
    rows = [*MONDAY, *TUESDAY]
    upload(store, rows, 0).load()
    upload(store, on("2025-05-05", C5=9.0), 1, key="other").load()
    # Monday's lines are read, and one of them is about Tuesday's record by now.
    mended = changed(MONDAY, C3=2.0)
    mended[4] = ("C8", 6.0, "2025-05-06")
    again = upload(store, [*mended, *TUESDAY[:8], *TUESDAY[9:]], 2)
    assert again.load() == Counts(rows_in=19, updated=3, unchanged=16)
    assert skipped(store, again) == [9]
    assert line_of(store, "C5") == [1.0, 9.0, 1.0]
    assert line_of(store, "C8", "2025-05-06") == [1.0, 6.0]


def test_another_file_that_says_the_same_does_not_matter(store: Store) -> None:
    upload(store, MONDAY, 0).load()
    upload(store, [*MONDAY, *TUESDAY], 1, key="other").load()
    again = upload(store, changed(MONDAY, C3=2.0), 2)
    again.load()
    assert skipped(store, again) == [9]


def test_a_row_about_a_record_of_which_a_line_is_still_there(store: Store) -> None:
    upload(store, MONDAY, 0).load()
    twice = upload(store, [*MONDAY, ("C3", 7.0, "2025-05-05")], 1)
    assert twice.load() == Counts(rows_in=11, updated=1, unchanged=9, duplicate=1)
    assert skipped(store, twice) == [0]
    assert line_of(store, "C3") == [1.0, 7.0]
    before = upload(store, [("C3", 7.0, "2025-05-05"), *MONDAY], 2)
    before.load()
    assert line_of(store, "C3") == [1.0, 7.0, 1.0]


def test_a_line_that_is_there_twice_is_a_duplicate(store: Store) -> None:
    upload(store, MONDAY, 0).load()
    twice = upload(store, [*MONDAY, MONDAY[3]], 1)
    assert twice.load() == Counts(rows_in=11, unchanged=10, duplicate=1)
    # And of a version that had one, not each row has a record of its own.
    again = upload(store, changed(MONDAY, C1=2.0), 2)
    assert again.load() == Counts(rows_in=10, updated=1, unchanged=9)
    assert skipped(store, again) == [0]


def test_bad_rows_are_read_each_time(store: Store) -> None:
    bad: list[Row] = [("", 1.0, "2025-05-05"), ("C1", -1.0, "2025-05-07")]
    rows = [bad[0], *MONDAY, bad[1]]
    assert upload(store, rows, 0).load() == Counts(rows_in=12, inserted=10, quarantined=2)
    again = upload(store, changed(rows, C3=2.0), 1)
    assert again.load() == Counts(rows_in=12, updated=1, unchanged=9, quarantined=2)
    assert skipped(store, again) == [9]
    aside = store.quarantine.find({"run_id": again.run_id}).sort("row_number")
    assert [(row["row_number"], row["field"]) for row in aside] == [
        (0, "symbol"),
        (11, "price_usd"),
    ]
    (batch,) = batches_of(store, again)
    assert {row["batch"] for row in store.quarantine.find({"raw_id": batch["raw_id"]})} == {
        batch["_id"]
    }


def test_what_was_said_in_between_and_comes_late(store: Store) -> None:
    upload(store, MONDAY, 0).load()
    between = upload(store, on("2025-05-05", C5=9.0), 1, key="other")
    again = upload(store, changed(MONDAY, C3=2.0), 2)
    again.load()
    assert skipped(store, again) == [9]
    between.load()
    assert line_of(store, "C5") == [1.0, 9.0, 1.0]


@pytest.mark.parametrize("died", [False, True])
def test_what_comes_late_while_a_file_is_being_skipped(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, died: bool
) -> None:
    """Nobody reads another version's rows for those of a batch that is loaded after all."""
    upload(store, MONDAY, 0).load()
    between = upload(store, on("2025-05-05", C5=9.0), 1, key="other")
    again = upload(store, MONDAY, 2)
    find = known_content.find

    def found_and_then(*args: Any) -> Document | None:
        known = find(*args)
        if known and died:
            raise KeyboardInterrupt
        if known:
            between.load()
        return known

    with monkeypatch.context() as patch:
        patch.setattr(known_content, "find", found_and_then)
        if died:
            with pytest.raises(KeyboardInterrupt):
                again.load()
            between.load()
        else:
            again.load()
    if died:
        again.load()
    (batch,) = batches_of(store, again)
    assert "skipped" not in batch
    assert batch["counts"] == asdict(Counts(rows_in=10, updated=1, unchanged=9))
    assert line_of(store, "C5") == [1.0, 9.0, 1.0]
    (record,) = store.market_data.find({"symbol": "C5"})
    assert record["raw_id"] == batch["raw_id"] != record["history"][0]["raw_id"]


def test_an_attempt_that_wakes_up_when_another_one_has_skipped_the_batch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By these names the raw rows of the second one come first, where nothing else decides.
    first_upload = upload(store, MONDAY, 0, name="v1")
    between = upload(store, on("2025-05-05", C5=9.0), 1, key="other")
    again = upload(store, MONDAY, 2, name="v2")
    fetch = raw_rows._fetch

    def fetch_and_sleep(*args: Any) -> bytes:
        data = fetch(*args)
        monkeypatch.setattr(raw_rows, "_fetch", fetch)
        for file in (first_upload, again, between):
            file.load()
        return data

    monkeypatch.setattr(raw_rows, "_fetch", fetch_and_sleep)
    again.load()
    (first,), (batch,) = batches_of(store, first_upload), batches_of(store, again)
    assert (batch["known_as"], batch["raw_id"]) == (first["_id"], first["raw_id"])
    assert line_of(store, "C5") == [1.0, 9.0, 1.0]
    (record,) = store.market_data.find({"symbol": "C5"})
    assert record["raw_id"] == batch["raw_id"]


def test_who_looks_while_later_values_are_being_brought_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw a value after which another one was still to be put: it has to be asked, too."""
    upload(store, MONDAY, 0).load()
    upload(store, MONDAY, 2, key="the same").load()
    between = upload(store, on("2025-05-05", C5=9.0), 1, key="between")
    again = upload(store, on("2025-05-05", C5=9.0), 3, key="again")
    ask = LateArrivals.later_revisions
    asked = 0

    def ask_and_wait(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        found = ask(*args)
        if asked == 1:
            again.load()
        return found

    monkeypatch.setattr(LateArrivals, "later_revisions", ask_and_wait)
    between.load()
    assert line_of(store, "C5") == [1.0, 9.0, 1.0, 9.0]
    assert store.market_data.count_documents({"revision": {"$gt": 1}}) == 1
    # What it took for known is on record as a change: so what was before it is none again.
    same = upload(store, MONDAY, 4, key="the same")
    same.load()
    assert line_of(store, "C5") == [1.0, 9.0, 1.0, 9.0, 1.0]


def test_files_without_versions_are_not_one_file(store: Store) -> None:
    """Both are of version "null" and of one second: which row comes later is told by its number."""
    upload(store, MONDAY, 0).load()
    first = upload(store, [*TUESDAY, *on("2025-05-07"), *MONDAY], 1, key="a", name="a")
    second = upload(store, [*TUESDAY, *on("2025-05-05", ["C5"], C5=9.0)], 1, key="b", name="b")
    for number, file in enumerate((first, second)):
        store.batches.update_many(
            {"run_id": file.run_id},
            {"$set": {"object.version_id": "null", "first_row": 10 * number}},
        )
        file.load()
    assert line_of(store, "C5") == [1.0, 9.0, 1.0]


def test_ranges_of_the_previous_version_may_have_contradicted_each_other(store: Store) -> None:
    # The second batch has another price of what the first one had.
    rows = [*MONDAY, *changed(MONDAY, C3=4.0)]
    upload(store, rows, 0, batch_rows=10).load()
    again = upload(store, changed(rows, C7=5.0), 1, batch_rows=10)
    again.load()
    assert skipped(store, again)[0] == 0
    assert line_of(store, "C3") == [1.0, 4.0, 1.0, 4.0]
    assert line_of(store, "C7") == [1.0, 5.0]


def test_rows_that_came_again_when_something_else_had_been_said(store: Store) -> None:
    """The very rows of the previous version are on record, yet as of a later receipt."""
    other = on("2025-05-05", C5=9.0)
    upload(store, MONDAY, 0).load()
    assert upload(store, MONDAY, 5).load() == Counts(rows_in=10, unchanged=10)
    upload(store, other, 2, key="other").load()
    upload(store, changed(MONDAY, C3=2.0), 3).load()
    upload(store, other, 4, key="another").load()
    assert line_of(store, "C5") == [1.0, 9.0, 1.0, 9.0, 1.0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_part_that_is_known_comes_after_one_that_is_not(
    store: Store, order: tuple[int, int]
) -> None:
    """Whatever the names of the versions: those of S3 do not tell which came first."""
    parts = [*MONDAY, *changed(MONDAY, C5=3.0)]
    upload(store, parts, 0, name="z", batch_rows=10).load()
    parts[5] = ("C5", 7.0, "2025-05-05")
    again = upload(store, parts, 1, name="a", batch_rows=10)
    for number in order:
        load_batch(store, BatchKey(again.run_id, again.input_id, number), again.objects)
    assert line_of(store, "C5") == [1.0, 3.0, 7.0, 3.0]


def test_a_file_whose_old_rows_go_covers_what_it_has(store: Store) -> None:
    days = [f"2025-05-{day:02}" for day in range(1, 9)]
    for minute in range(6):
        rolling = [row for day in days[minute : minute + 3] for row in on(day)]
        file = upload(store, rolling, minute)
        file.load()
        (batch,) = batches_of(store, file)
        ids = [d["_id"] for d in store.market_data.find({"timestamp": _times(rolling)}, {"_id": 1})]
        assert batch.get("passed_over", 0) == (20 if minute else 0)
        assert [time_of(batch["covers"][end]) for end in ("first", "last")] == [
            time_of(min(ids)),
            time_of(max(ids)),
        ]


def _times(rows: Sequence[Row]) -> Document:
    return {"$in": [datetime.fromisoformat(f"{day}T00:00Z") for _, _, day in rows]}


def test_a_run_may_be_told_to_read_them_all(store: Store) -> None:
    upload(store, MONDAY, 0).load()
    again = upload(store, changed(MONDAY, C3=2.0), 1)
    store.runs.update_one({"_id": again.run_id}, {"$set": {"force": True}})
    assert again.load() == Counts(rows_in=10, updated=1, unchanged=9)
    assert skipped(store, again) == [0]


def test_lines_with_quotes_are_read(store: Store) -> None:
    upload(store, MONDAY, 0).load()
    quoted = [(f'"{coin}"', price, day) for coin, price, day in MONDAY]
    again = upload(store, quoted, 1)
    assert again.load() == Counts(rows_in=10, unchanged=10)


@pytest.mark.usefixtures("small_chunks")
def test_a_batch_that_runs_out_of_time_is_read_whole_then(store: Store) -> None:
    upload(store, [*MONDAY, *TUESDAY], 0).load()
    prices = dict.fromkeys(COINS[:4], 2.0)
    again = upload(store, [*changed(MONDAY, **prices), *TUESDAY], 1)
    key = BatchKey(again.run_id, again.input_id, 0)
    calls = 0
    while load_within(store, key, again.objects, remaining_seconds=lambda: 1.0).again:
        calls += 1
    assert calls > 1
    (batch,) = batches_of(store, again)
    assert Counts(**batch["counts"]) == Counts(rows_in=20, updated=4, unchanged=16)
    assert line_of(store, "C2") == [1.0, 2.0]


def test_a_record_that_is_contradicted_before_the_raw_rows_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines are found to hold; then one comes late that was received before."""
    upload(store, MONDAY, 0).load()
    between = upload(store, on("2025-05-05", C5=9.0), 1, key="other")
    again = upload(store, changed(MONDAY, C3=2.0), 2)
    asked, begun = threading.Event(), threading.Event()
    revised_after = market_data.revised_after

    def asking(*args: Any, most: int) -> list[bytes]:
        answer = revised_after(*args, most=most)
        asked.set()
        return answer

    def keeping(opened: Store, documents: list[Document]) -> None:
        if not begun.is_set():
            begun.set()
            assert asked.wait(30)
            between.load()
        save_raw(opened, documents)

    monkeypatch.setattr(market_data, "revised_after", asking)
    monkeypatch.setattr(raw_rows, "save_raw", keeping)
    again.load()
    assert line_of(store, "C5") == [1.0, 9.0, 1.0]
    assert skipped(store, again) == [0]


# --- whatever comes ---------------------------------------------------------------------------

ROWS = st.tuples(
    st.sampled_from(["BTC", "ETH", "XRP"]),
    st.sampled_from([1.0, 2.0, 3.0, 4.0, -1.0]),  # the last one is no price
    st.sampled_from(["2025-05-05", "2025-05-06", "2025-05-07"]),
)


@dataclass(frozen=True)
class Version:
    """Rows of a file, as received in that minute."""

    minute: int
    key: str
    rows: Sequence[Row]


@st.composite
def versions(draw: st.DrawFn) -> list[Version]:
    """Two files, uploaded again and again with little changed."""
    now = {
        key: draw(st.lists(ROWS, min_size=1, max_size=9, unique_by=lambda row: (row[0], row[2])))
        for key in ("a", "b")
    }
    made = []
    for minute in range(draw(st.integers(2, 7))):
        key = draw(st.sampled_from(["a", "a", "a", "a", "b"]))
        rows = list(now[key])
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(rows)))
            row = draw(ROWS)
            rows[at : at + draw(st.integers(0, 1))] = [row] if draw(st.integers(0, 4)) else []
        now[key] = rows
        made.append(Version(minute, key, rows))
    return made


def reference(all_versions: Sequence[Version]) -> Lines:
    return reference_lines(
        {
            version.minute: [(coin, day, price) for coin, price, day in version.rows]
            for version in all_versions
        }
    )


def lines_of(store: Store) -> Lines:
    """The records as the reference tells them."""
    return {
        (document["symbol"], f"{document['timestamp']:%Y-%m-%d}"): [
            (s["price_usd"], int(s["version"]), s["row"])
            for s in (*document.get("history", ()), document)
        ]
        for document in store.market_data.find({})
    }


def clear(store: Store) -> None:
    for name in ("market_data", "latest_prices", "raw_batches", "batches", "quarantine", "runs"):
        store.database[name].delete_many({})


EXAMPLES = int(os.environ.get("VERSIONS_EXAMPLES", "30"))
MANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MANY
@given(data=st.data())
def test_any_versions_in_any_order_end_in_the_same_records(
    store: Store, data: st.DataObject
) -> None:
    clear(store)
    drawn = data.draw(versions())
    batch_rows = data.draw(st.sampled_from([3, 100]))
    uploads: dict[int, Upload] = {}
    jobs = [
        (version, number)
        for version in drawn
        for number in range((len(version.rows) + batch_rows - 1) // batch_rows)
    ]
    for _ in range(data.draw(st.sampled_from([0, 0, 1, 3]))):
        if jobs:
            late = jobs.pop(data.draw(st.integers(0, len(jobs) - 1)))
            jobs.insert(data.draw(st.integers(0, len(jobs))), late)
    for version, number in jobs:
        # Cut when the first of its batches is loaded: what is pending keeps others from being
        # compared with what came before it.
        if version.minute not in uploads:
            uploads[version.minute] = upload(
                store, version.rows, version.minute, key=version.key, batch_rows=batch_rows
            )
        file = uploads[version.minute]
        load_batch(store, BatchKey(file.run_id, file.input_id, number), file.objects)
    event(f"skipped: {store.batches.count_documents({'passed_over': {'$gt': 0}}) > 0}")
    assert lines_of(store) == reference(drawn)
    for version in drawn:
        if not version.rows:
            continue
        file = uploads[version.minute]
        counts = [Counts(**batch["counts"]) for batch in batches_of(store, file)]
        assert sum(c.rows_in for c in counts) == len(version.rows)
        assert sum(c.quarantined for c in counts) == sum(price < 0 for _, price, _ in version.rows)


@settings(parent=MANY, max_examples=EXAMPLES // 2)
@given(drawn=versions(), batch_rows=st.sampled_from([3, 100]))
def test_versions_loaded_side_by_side_end_in_the_same_records(
    store: Store, drawn: list[Version], batch_rows: int
) -> None:
    clear(store)
    uploads = [upload(store, v.rows, v.minute, key=v.key, batch_rows=batch_rows) for v in drawn]
    # The first is there; of each file several versions are under way at the same time.
    uploads[0].load()
    faults: list[Exception] = []
    start = threading.Barrier(len(uploads) - 1)

    def run(file: Upload) -> None:
        try:
            start.wait(30)
            file.load()
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            faults.append(error)

    threads = [threading.Thread(target=run, args=(file,)) for file in uploads[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert lines_of(store) == reference(drawn)
