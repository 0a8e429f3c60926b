"""`/uploads` over a real MongoDB."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta

import boto3
import pytest
import requests

from marketdata import clock
from marketdata.aws.s3 import Uploads
from marketdata.objects import Ignored, ObjectVersion
from marketdata.store import ignored_objects, objects
from marketdata.store.connection import Store
from marketdata.store.objects import Claimed
from tests.support.gateway import Gateway, make_gateway, ok


def upload_gateway(store: Store, limit: int = 1_000) -> Gateway:
    uploads = Uploads("uploads-test")
    return make_gateway(lambda: store, uploads=lambda: uploads, upload_max_bytes=limit)


def test_a_form_to_upload_with(store: Store, aws: None) -> None:
    boto3.client("s3").create_bucket(Bucket="uploads-test")
    before = clock.now()
    body = ok(
        upload_gateway(store).post("/uploads", {"filename": "prices.csv", "dataset": "kaggle"}), 201
    )
    assert body["key"] == body["fields"]["key"] == "incoming/prices.csv"
    assert body["fields"]["Content-Type"] == "text/csv"
    assert body["fields"]["x-amz-meta-dataset"] == "kaggle"
    assert body["max_bytes"] == 1_000
    assert before < clock.now()
    assert body["expires_at"] > clock.iso(before + timedelta(minutes=14))
    sent = requests.post(
        body["url"], data=body["fields"], files={"file": b"symbol,price\n"}, timeout=10
    )
    assert sent.status_code == 204
    found = boto3.client("s3").get_object(Bucket="uploads-test", Key="incoming/prices.csv")
    assert found["Body"].read() == b"symbol,price\n"
    assert found["Metadata"] == {"dataset": "kaggle"}


def test_what_a_form_fixes_is_in_its_policy(store: Store, aws: None) -> None:
    gateway = upload_gateway(store)
    for request, kind, smallest, largest in (
        ({"filename": "a.csv.gz"}, "application/gzip", 1, 1_000),
        ({"filename": "b c-1.csv", "size": 10}, "text/csv", 10, 10),
        ({"filename": "A.CSV"}, "text/csv", 1, 1_000),
        ({"filename": "A.Csv.GZ"}, "application/gzip", 1, 1_000),
    ):
        body = ok(gateway.post("/uploads", request), 201)
        policy = json.loads(b64decode(body["fields"]["policy"]))
        assert ["content-length-range", smallest, largest] in policy["conditions"]
        assert {"Content-Type": kind} in policy["conditions"]
        assert {"key": f"incoming/{request['filename']}"} in policy["conditions"]
        assert {"bucket": "uploads-test"} in policy["conditions"]


@pytest.mark.parametrize(
    ("region", "endpoint", "url"),
    [
        ("eu-central-1", None, "https://uploads-test.s3.eu-central-1.amazonaws.com/"),
        ("us-east-1", None, "https://uploads-test.s3.amazonaws.com/"),
        ("eu-central-1", "http://127.0.0.1:4566", "http://127.0.0.1:4566/uploads-test"),
        ("eu-central-1", "http://localstack:4566", "http://localstack:4566/uploads-test"),
    ],
)
def test_a_form_names_the_host_of_the_buckets_region(
    store: Store, aws: None, monkeypatch: pytest.MonkeyPatch, region: str, endpoint: str | None,
    url: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    body = ok(upload_gateway(store).post("/uploads", {"filename": "a.csv"}), 201)
    assert body["url"] == url
    assert body["fields"]["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    assert f"/{region}/s3/aws4_request" in body["fields"]["x-amz-credential"]


def test_a_file_that_is_too_large_is_refused_before(store: Store, aws: None) -> None:
    answer = upload_gateway(store).post("/uploads", {"filename": "a.csv", "size": 1_001})
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("size: ")


def test_uploads_are_listed_by_state_the_latest_first(store: Store) -> None:
    gateway = make_gateway(lambda: store)
    for number in range(5):
        version = ObjectVersion("b", f"incoming/{number}.csv", f"v{number}", size=number)
        assert objects.claim(store, version, f"run {number}") == Claimed()
        # Several may be taken within one millisecond; then their ids decide.
        at = datetime(2025, 5, 9, 6, number, tzinfo=UTC)
        store.objects.update_one({"_id": version.id}, {"$set": {"taken_at": at}})
        if number < 4:
            assert objects.settle(store, version.id, f"run {number}", refused=number == 0)
    ignored_objects.note(store, [Ignored("b", "incoming/a.xls"), Ignored("b", "Incoming/")])

    def listed(*asked: tuple[str, str]) -> list[str]:
        found, cursor = list[str](), ""
        while True:
            goes_on = [("cursor", cursor)] if cursor else []
            page = ok(gateway.get("/uploads", *asked, ("limit", "2"), *goes_on))
            found += [one["key"] for one in page["data"]]
            cursor = page["pagination"]["next_cursor"]
            if cursor is None:
                return found

    assert listed() == listed(("state", "done")) == [f"incoming/{n}.csv" for n in (3, 2, 1)]
    assert listed(("state", "taken")) == ["incoming/4.csv"]
    assert listed(("state", "refused")) == ["incoming/0.csv"]
    assert sorted(listed(("state", "ignored"))) == ["Incoming/", "incoming/a.xls"]
    (one,) = ok(gateway.get("/uploads", ("state", "refused")))["data"]
    assert (one["version_id"], one["size"], one["run_id"]) == ("v0", 0, "run 0")
    ignored = ok(gateway.get("/uploads", ("state", "ignored")))["data"]
    assert all(one["reason"] and one["run_id"] is None for one in ignored)
    assert gateway.get("/uploads", ("state", "lost")).status == 400
    assert gateway.get("/uploads", ("cursor", "AAAAAAAAAA.00000000")).status == 404
