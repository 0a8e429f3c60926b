"""The way of an uploaded object, from its event or from the bucket's list to its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from marketdata.aws.s3_objects import S3Objects
from marketdata.objects import ObjectVersion
from marketdata.runs import closing, opening, uploads
from marketdata.store import objects, runs
from marketdata.store.batches.batch import COUNTS
from marketdata.store.connection import Store
from marketdata.store.objects import Claimed
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.runs import open_run
from tests.support.uploads import (
    BUCKET,
    HEADER,
    Bucket,
    carry_out,
    finish,
    keys,
    open_with_bucket,
    rows,
    totals,
)


def test_other_runs_take_the_sources_and_what_nobody_has_taken(
    store: Store, bucket: Bucket
) -> None:
    taken = bucket.put("incoming/taken.csv", HEADER)
    carry_out(store, taken)
    bucket.put("incoming/new.csv", HEADER)
    bucket.put("incoming/deep/New 2.CSV.gz", HEADER)
    bucket.put("incoming/notes.txt", HEADER)
    bucket.put("other/new.csv", HEADER)
    bucket.put("incoming/folder.csv/", b"")
    bucket.put("incoming/deleted.csv", HEADER)
    bucket.client.delete_object(Bucket=BUCKET, Key="incoming/deleted.csv")

    opened = open_with_bucket(store, hourly_event(), "coingecko")

    assert opened["proceed"]
    assert {i["input"] for i in opened["inputs"] if i["source"] == "coingecko"} == {"coingecko"}
    # A version stays when a delete marker hides it.
    assert keys(store, opened) == {
        "incoming/new.csv",
        "incoming/deep/New 2.CSV.gz",
        "incoming/deleted.csv",
    }
    finish(store, opened)
    assert keys(store, open_with_bucket(store, hourly_event(), "coingecko")) == set()


def test_a_run_leaves_what_another_holds(store: Store, bucket: Bucket) -> None:
    held = open_with_bucket(store, bucket.put("incoming/held.csv", HEADER))
    bucket.put("incoming/free.csv", HEADER)
    # As if it had died between holding and claiming.
    store.objects.delete_many({})

    opened = open_with_bucket(store, hourly_event(), "coingecko")

    assert opened["proceed"]
    assert keys(store, opened) == {"incoming/free.csv"}
    closing.close(store, held["run_id"])
    finish(store, opened)
    later = open_with_bucket(store, hourly_event(), "coingecko")
    assert keys(store, later) == {"incoming/held.csv"}


def test_an_event_for_what_an_hourly_run_took_starts_nothing(store: Store, bucket: Bucket) -> None:
    event = bucket.put("incoming/a.csv", HEADER)
    hourly = open_with_bucket(store, hourly_event(), "coingecko")

    assert open_with_bucket(store, event) == {
        "run_id": hourly["run_id"],
        "proceed": False,
        "inputs": [],
    }
    closing.close(store, hourly["run_id"])
    assert not open_with_bucket(store, event)["proceed"]
    assert store.runs.count_documents({}) == 1


def test_uploads_run_beside_an_hourly_run(store: Store, bucket: Bucket) -> None:
    assert open_with_bucket(store, hourly_event(), "coingecko")["proceed"]

    run = carry_out(store, bucket.put("incoming/a.csv", HEADER + rows(2)))

    assert run["status"] == "success"
    assert set(run["inputs"]) == {i["input"] for i in run["results"]}


def test_opening_again_after_an_answer_was_lost_gives_the_same(
    store: Store, bucket: Bucket
) -> None:
    upload = bucket.put("incoming/a.csv", HEADER)
    assert open_with_bucket(store, upload) == open_with_bucket(store, upload)
    bucket.put("incoming/b.csv", HEADER)
    refresh = hourly_event()
    assert open_with_bucket(store, refresh, "coingecko") == open_with_bucket(
        store, refresh, "coingecko"
    )


@pytest.mark.parametrize("key", ["incoming/a b+ü%20x.csv", "incoming/ünï cödé.csv.gz"])
@pytest.mark.parametrize("told", [lambda key: key, quote])
def test_any_key_is_found_however_the_event_writes_it(
    store: Store, bucket: Bucket, key: str, told: Callable[[str], str]
) -> None:
    event = bucket.put(key, HEADER + rows(1))
    event["detail"]["object"]["key"] = told(key)

    run = carry_out(store, event)

    assert totals(run) == {"inserted": 1}
    (note,) = run["inputs"].values()
    assert note["object"]["key"] == key
    # The listing knows it by the same id.
    assert keys(store, open_with_bucket(store, hourly_event(), "coingecko")) == set()


@pytest.mark.parametrize("key", ["other/a.csv", "incoming/a.txt", "a.csv"])
def test_objects_elsewhere_start_nothing(store: Store, bucket: Bucket, key: str) -> None:
    assert not open_with_bucket(store, bucket.put(key, HEADER))["proceed"]
    assert store.runs.count_documents({}) == 0


def test_a_bucket_that_can_not_be_listed_does_not_stop_the_sources(
    store: Store, bucket: Bucket
) -> None:
    opened = opening.open_run(
        store, hourly_event(), "x", ["coingecko"], S3Objects("no-such-bucket")
    )

    assert [i["input"] for i in opened["inputs"]] == ["coingecko"]
    note: Document = runs.get(store, opened["run_id"])["inputs"]["uploads"]
    assert note["status"] == "failed"
    assert "no-such-bucket" in note["error"]["message"]


def test_no_more_objects_than_a_run_can_carry_the_oldest_first(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 3)
    for number in range(5):
        bucket.put(f"incoming/{number}.csv", HEADER)

    first = open_with_bucket(store, hourly_event(), "coingecko")
    finish(store, first)
    second = open_with_bucket(store, hourly_event(), "coingecko")

    assert len(keys(store, first)) == 3
    assert len(keys(store, first) | keys(store, second)) == 5


def test_an_upload_becomes_records_once(store: Store, bucket: Bucket) -> None:
    event = bucket.put("incoming/prices.csv", HEADER + rows(10))

    run = carry_out(store, event)

    assert run["status"] == "success"
    assert run["trigger"] == "upload"
    assert run["totals"] == {
        "extracted": 10,
        "rows_in": 10,
        **dict.fromkeys(COUNTS, 0),
        "inserted": 10,
    }
    assert store.market_data.count_documents({"source": "csv", "dataset": "csv"}) == 10
    assert store.latest_prices.count_documents({}) == 10
    for again in (event, event | {"id": "another"}, event | {"time": "2025-06-02T09:07:00Z"}):
        opened = open_with_bucket(store, again)
        assert opened == {"run_id": run["_id"], "proceed": False, "inputs": []}
    assert store.runs.count_documents({}) == 1


def test_an_event_for_a_version_that_is_gone_fails_with_the_reason(
    store: Store, bucket: Bucket
) -> None:
    event = bucket.put("incoming/a.csv", HEADER + rows(4))
    version = event["detail"]["object"]["version-id"]
    bucket.client.delete_object(Bucket=BUCKET, Key="incoming/a.csv", VersionId=version)

    run = carry_out(store, event)

    assert run["status"] == "failed"
    assert "Upload the file again" in run["results"][0]["error"]["message"]


def test_a_run_that_ends_while_it_lists_the_bucket_claims_nothing(
    store: Store, bucket: Bucket
) -> None:
    """As when somebody stops its execution meanwhile."""
    bucket.put("incoming/a.csv", HEADER + rows(2))

    class Ending(S3Objects):
        def versions(self) -> Iterator[ObjectVersion]:
            for run in store.runs.find({"status": "running"}):
                closing.close(store, run["_id"])
            yield from super().versions()

    opened = opening.open_run(store, hourly_event(), "stopped", ["coingecko"], Ending(BUCKET))
    assert not opened["proceed"]
    assert store.objects.count_documents({}) == 0
    # Nobody has it, so the next run takes it.
    assert totals(carry_out(store, hourly_event())) == {"inserted": 2}


def test_an_upload_is_loaded_though_a_run_claimed_it_after_its_end(
    store: Store, bucket: Bucket
) -> None:
    """As version 0.1 could leave it: that run does not have it as an input."""
    bucket.put("incoming/a.csv", HEADER + rows(2))
    (version,) = S3Objects(BUCKET).versions()
    ended = open_run(store, None, "coingecko")["run_id"]
    closing.close(store, ended)
    assert objects.claim(store, version, ended) == Claimed()

    run = carry_out(store, hourly_event())

    assert totals(run) == {"inserted": 2}
    assert objects.owner(store, version.id) == run["_id"]
