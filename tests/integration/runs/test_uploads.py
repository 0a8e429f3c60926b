"""The way of an uploaded object, from its event or from the bucket's list to its run."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

from marketdata import clock
from marketdata.aws.s3_objects import S3Objects
from marketdata.documents.sources import ListingMarker
from marketdata.errors import SettingsError
from marketdata.objects import Ignored, Listed, ObjectVersion
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
    bucket.put("incoming/notes.pdf", HEADER)
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


@pytest.mark.parametrize("key", ["other/a.csv", "incoming/a.xls", "a.csv"])
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
        def listed(self, marker: ListingMarker | None = None) -> Listed:
            for run in store.runs.find({"status": "running"}):
                closing.close(store, run["_id"])
            return super().listed(marker)

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
    (version,) = S3Objects(BUCKET).listed().versions
    ended = open_run(store, None, "coingecko")["run_id"]
    closing.close(store, ended)
    assert objects.claim(store, version, ended) == Claimed()

    run = carry_out(store, hourly_event())

    assert totals(run) == {"inserted": 2}
    assert objects.owner(store, version.id) == run["_id"]


# --- a bucket that is looked through ------------------------------------------------------


class Large(S3Objects):
    """A bucket of so many keys, with one upload each, as S3 lists them."""

    def __init__(self, keys: int) -> None:
        super().__init__(BUCKET)
        self.keys = keys
        self.calls = 0

    def listed(self, marker: ListingMarker | None = None) -> Listed:
        self.calls += 1
        first = int(marker["key"][-10:-4]) + 1 if marker else 0
        versions = [
            ObjectVersion(BUCKET, f"incoming/{n:06}.csv", "v1", 1, "etag", clock.EPOCH)
            for n in range(first, min(first + 1_000, self.keys))
        ]
        at_end = first + 1_000 >= self.keys
        last = versions[-1]
        after: ListingMarker = {"key": last.key, "version_id": last.version_id}
        return Listed(versions, [], None if at_end else after)

    def elsewhere(self) -> list[Ignored]:
        return []

    def settle(self, store: Store, numbers: range) -> None:
        """Have these uploads loaded by an earlier run."""
        store.database["objects"].insert_many(
            [
                {
                    "_id": version.id,
                    **version.document(),
                    "run_id": "earlier",
                    "state": "done",
                    "resumptions": 0,
                    "taken_at": clock.EPOCH,
                }
                for version in (
                    ObjectVersion(BUCKET, f"incoming/{n:06}.csv", "v1") for n in numbers
                )
            ]
        )


def opened_keys(store: Store, bucket: Large) -> set[str]:
    """The uploads that an hourly run takes, which ends then."""
    event = hourly_event()
    opened = opening.open_run(store, event, f"execution of {event['id']}", ["coingecko"], bucket)
    found = keys(store, dict(opened))
    closing.close(store, opened["run_id"])
    store.objects.update_many({"state": "taken"}, {"$set": {"state": "done"}})
    return found


def test_a_bucket_of_100_000_versions_is_looked_through_by_several_openings(store: Store) -> None:
    bucket = Large(100_000)
    new = {0, 24_999, 25_000, 60_000, 99_999}
    for first in range(0, 100_000, 10_000):
        bucket.settle(store, range(first, first + 10_000))
    store.objects.delete_many({"key": {"$in": [f"incoming/{n:06}.csv" for n in new]}})
    found: list[set[str]] = []
    for _ in range(4):
        bucket.calls = 0
        found.append(opened_keys(store, bucket))
        assert bucket.calls <= uploads.MOST_PAGES
    assert [{int(key[-10:-4]) for key in some} for some in found] == [
        {0, 24_999},
        {25_000},
        {60_000},
        {99_999},
    ]
    # And round again: what has come meanwhile is found wherever it is.
    store.objects.delete_one({"key": "incoming/000007.csv"})
    assert "incoming/000007.csv" in set().union(*(opened_keys(store, bucket) for _ in range(4)))


def test_a_bucket_that_is_not_so_large_is_looked_through_each_time(store: Store) -> None:
    bucket = Large(3_500)
    bucket.settle(store, range(3_500))
    for number in (3_499, 0, 1_000):
        store.objects.delete_one({"key": f"incoming/{number:06}.csv"})
        assert opened_keys(store, bucket) == {f"incoming/{number:06}.csv"}


def test_one_look_after_a_large_one_sees_all_once(store: Store) -> None:
    """The bucket has shrunk since: behind the marker comes its end, and then its beginning."""
    bucket = Large(30_000)
    bucket.settle(store, range(30_000))
    assert opened_keys(store, bucket) == set()
    bucket.keys, bucket.calls = 26_000, 0
    store.objects.delete_many({"key": {"$in": ["incoming/000005.csv", "incoming/025999.csv"]}})
    assert opened_keys(store, bucket) == {"incoming/000005.csv", "incoming/025999.csv"}
    assert bucket.calls <= uploads.MOST_PAGES


def test_of_a_key_only_the_newest_version_is_taken(store: Store, bucket: Bucket) -> None:
    bucket.put("incoming/a.csv", HEADER + rows(1))
    newest = bucket.put("incoming/a.csv", HEADER + rows(2))
    opened = open_with_bucket(store, hourly_event(), "coingecko")
    (version,) = store.objects.find({})
    assert version["version_id"] == newest["detail"]["object"]["version-id"]
    assert keys(store, opened) == {"incoming/a.csv"}


def test_an_empty_version_supersedes_nothing(store: Store, bucket: Bucket) -> None:
    for body in (HEADER + rows(1), HEADER + rows(3), b"", b""):
        bucket.put("incoming/a.csv", body)
    run = carry_out(store, hourly_event())
    assert totals(run) == {"inserted": 3}
    # The newest one, and the newest with content.
    assert sorted(result["status"] for result in run["results"]) == ["skipped", "success"]
    assert run["status"] == "success"


def test_a_version_that_an_empty_one_has_followed_since_is_loaded(
    store: Store, bucket: Bucket
) -> None:
    old = bucket.put("incoming/a.csv", HEADER + rows(1))
    full = bucket.put("incoming/a.csv", HEADER + rows(3))
    empty = [bucket.put("incoming/a.csv", b"") for _ in range(2)]
    bucket.put("incoming/a.csv.gz", HEADER + rows(1))
    assert carry_out(store, old)["results"][0]["reason"].startswith("s3://uploads/incoming/a.csv")
    assert totals(carry_out(store, full)) == {"inserted": 3}
    for event in empty:
        (result,) = carry_out(store, event)["results"]
        assert result["status"] == "skipped"
        assert result["error"] is None


def test_the_version_that_counts_is_found_across_pages(bucket: Bucket) -> None:
    """Of a key whose newest versions are empty, or deleted, and fill the page's end."""
    full = bucket.put("incoming/a.csv", HEADER)["detail"]["object"]["version-id"]
    for _ in range(1_000):
        empty = bucket.put("incoming/a.csv", b"")["detail"]["object"]["version-id"]
    first = S3Objects(BUCKET).listed()
    assert [version.version_id for version in first.versions] == [empty]
    assert first.marker is not None
    assert first.marker["seen"] == "empty"
    second = S3Objects(BUCKET).listed(first.marker)
    assert [version.version_id for version in second.versions] == [full]
    assert second.marker is None


def test_a_bucket_whose_top_may_not_be_listed_is_looked_through(
    store: Store, bucket: Bucket
) -> None:
    bucket.put("incoming/a.csv", HEADER + rows(2))

    class Denied(S3Objects):
        def elsewhere(self) -> list[Ignored]:
            raise SettingsError("denied")

    event = hourly_event()
    opened = opening.open_run(store, event, event["id"], ["coingecko"], Denied(BUCKET))
    assert keys(store, dict(opened)) == {"incoming/a.csv"}


def test_a_key_whose_versions_fill_two_pages_is_listed_with_its_newest(bucket: Bucket) -> None:
    newest = {}
    for key in ("incoming/a.csv", "incoming/b.csv", "incoming/c.csv"):
        for _ in range(350):
            told = bucket.put(key, b"")
            newest[key] = told["detail"]["object"]["version-id"]

    first = S3Objects(BUCKET).listed()
    assert first.marker is not None
    assert first.marker["key"] == "incoming/c.csv"
    second = S3Objects(BUCKET).listed(first.marker)
    assert second.marker is None

    found = [*first.versions, *second.versions]
    assert [(version.key, version.version_id) for version in found] == list(newest.items())


# --- what no run takes --------------------------------------------------------------------


def test_what_no_run_takes_is_noted_once_with_its_reason(store: Store, bucket: Bucket) -> None:
    expected = {
        "incoming/notes.pdf": "end with .csv, .tsv",
        "incoming/deep/prices.csv.zip": "end with .csv, .tsv",
        "Incoming/a.csv": "and not Incoming/: the case counts",
        "INCOMING/deep/b.csv": "and not INCOMING/: the case counts",
        "other/": "Put it there",
        "loose.csv": "Put it there",
    }
    for key in ("incoming/notes.pdf", "incoming/deep/prices.csv.zip", "other/x/y.csv", "loose.csv"):
        bucket.put(key, HEADER)
    bucket.put("Incoming/a.csv", HEADER)
    bucket.put("INCOMING/deep/b.csv", HEADER)
    bucket.put("incoming/", b"")
    bucket.put("incoming/fine.csv", HEADER + rows(1))
    for _ in range(2):
        finish(store, open_with_bucket(store, hourly_event(), "coingecko"))
    noted = {document["key"]: document for document in store.ignored_objects.find({})}
    assert noted.keys() == expected.keys()
    for key, says in expected.items():
        assert says in noted[key]["reason"]
    # An event of one that the rule lets through names the object itself.
    noticed_at = noted["loose.csv"]["noticed_at"]
    for key in ("Incoming/late.csv", "loose.csv"):
        assert not open_with_bucket(store, bucket.put(key, HEADER))["proceed"]
    noted = {document["key"]: document for document in store.ignored_objects.find({})}
    assert noted.keys() == expected.keys() | {"Incoming/late.csv"}
    assert noted["loose.csv"]["noticed_at"] == noticed_at
