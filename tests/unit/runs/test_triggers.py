"""What an event says about the run that it starts."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata.errors import InvalidInput
from marketdata.objects import NO_VERSION, is_upload
from marketdata.runs import triggers
from marketdata.runs.triggers import RunRequest


def schedule(**changes: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "time": "2025-06-02T09:00:00Z",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/hourly"],
        "detail": {},
    } | changes


def created(key: str = "incoming/a.csv", version: str | None = "v1", **changes: Any) -> Any:
    described = {"key": key, "size": 5, "etag": "b1946ac9", "sequencer": "00617F08299329D189"}
    if version is not None:
        described["version-id"] = version
    return schedule(
        **{
            "source": "aws.s3",
            "detail-type": "Object Created",
            "detail": {"version": "0", "bucket": {"name": "uploads"}, "object": described},
        }
        | changes
    )


def test_a_schedule_and_a_run_on_demand() -> None:
    assert triggers.parse(schedule()).kind == "schedule"
    asked = RunRequest(("csv",), force=True)
    one, other = triggers.on_demand(asked), triggers.on_demand(asked)
    assert (one.kind, one.asked) == ("refresh", asked)
    assert one.run_id != other.run_id
    assert one.run_id.startswith(f"{one.time:%Y%m%dT%H%M%SZ}-")


@pytest.mark.parametrize(
    "asked",
    [
        RunRequest(),
        RunRequest(("coingecko", "csv"), force=True),
        RunRequest(resume="an earlier run", retry=True),
    ],
)
def test_a_request_is_kept_and_read_back(asked: RunRequest) -> None:
    assert RunRequest.of(asked.document()) == asked


def test_which_run_an_execution_carries_out_follows_from_its_input() -> None:
    run_id = triggers.on_demand(RunRequest()).run_id
    assert triggers.run_id_of(triggers.execution_input(run_id)) == run_id
    assert triggers.run_id_of(schedule()) == triggers.parse(schedule()).run_id
    assert triggers.requested_run(schedule()) is None
    assert triggers.requested_run(created()) is None


def test_the_run_of_an_execution_that_version_0_1_started_is_found() -> None:
    envelope = schedule(source="marketdata.control", detail={"sources": ["csv"]})
    # As version 0.1 named it.
    assert triggers.requested_run(envelope) == "20250602T090000Z-30cfd3b9c343"
    with pytest.raises(InvalidInput):
        triggers.parse(envelope)


def test_the_same_event_is_the_same_run_and_another_is_another() -> None:
    one = triggers.parse(schedule())

    assert triggers.parse(schedule()).run_id == one.run_id
    assert triggers.parse(schedule(id="other")).run_id != one.run_id
    assert one.run_id.startswith("20250602T090000Z-")


def test_an_upload_is_known_by_its_object_version_not_by_the_event() -> None:
    one = triggers.parse(created())

    assert one.kind == "upload"
    assert one.upload is not None
    assert (one.upload.bucket, one.upload.key, one.upload.version_id) == (
        "uploads",
        "incoming/a.csv",
        "v1",
    )
    assert triggers.parse(created(id="again")).run_id == one.run_id
    assert triggers.parse(created(version="v2")).run_id != one.run_id
    assert triggers.parse(created(key="incoming/b.csv")).run_id != one.run_id


def test_an_object_from_before_versioning() -> None:
    upload = triggers.parse(created(version=None)).upload

    assert upload is not None
    assert upload.version_id == NO_VERSION


def test_an_objects_input_id_says_nothing_of_its_name() -> None:
    upload = triggers.parse(created(key="incoming/$a.b c/ü.csv")).upload

    assert upload is not None
    assert upload.id.startswith("csv-")
    assert upload.id[4:].isalnum()
    assert len(upload.id) == 16


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        schedule(time="yesterday"),
        schedule(source="aws.ec2"),
        created(detail={}),
        created(detail=None),
        created(detail={"bucket": {"name": "b"}, "object": {}}),
    ],
)
def test_what_starts_no_run(envelope: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        triggers.parse(envelope)


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        ("incoming/a.csv", True),
        ("incoming/A.CSV", True),
        ("incoming/2025/ü b.csv.gz", True),
        ("incoming/a.Csv.GZ", True),
        ("incoming/a.txt", True),
        ("incoming/a.TSV.gz", True),
        ("incoming/a.xls", False),
        ("incoming/a.csv/", False),
        ("incoming/", False),
        ("other/a.csv", False),
        ("a.csv", False),
    ],
)
def test_which_keys_are_uploads(key: str, taken: bool) -> None:
    assert is_upload(key) is taken
