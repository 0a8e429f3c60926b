"""Files that ask: they wait whole, are answered, and load; real MongoDB, S3 by moto."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata.aws.s3_objects import S3Objects
from marketdata.documents.questions import Answers
from marketdata.errors import StateConflict
from marketdata.load.loader import load_batch
from marketdata.runs import closing
from marketdata.store import asking, objects
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.uploads import (
    Bucket,
    carry_out,
    extract,
    keys,
    open_with_bucket,
    records,
    totals,
)

ASKS = "Date,Close\n2025-05-07,1.5\n2025-05-08,1.6\n2025-05-09,1.7\n"
ORDERS = "symbol,date,close\nA,03/04/2025,1\nA,09/07/2025,2\n"


def waiting(store: Store) -> list[Document]:
    return list(store.objects.find({"state": "waiting"}))


def the_waiting(store: Store) -> Document:
    (found,) = waiting(store)
    return found


def take_again(store: Store) -> Document:
    """A scheduled run, which looks for what is to be loaded."""
    return carry_out(store, hourly_event())


def test_a_file_with_a_question_waits_whole_and_is_no_failure(store: Store, bucket: Bucket) -> None:
    run = carry_out(store, bucket.put("incoming/prices.csv", ASKS))

    (result,) = run["results"]
    assert (result["status"], result["error"]) == ("waiting", None)
    assert run["status"] == "success"
    assert totals(run) == {}
    assert store.market_data.count_documents({}) == store.batches.count_documents({}) == 0
    (note,) = run["inputs"].values()
    assert note["status"] == "waiting"
    assert f"/uploads/{result['input']}/answer" in note["reason"]
    found = the_waiting(store)
    (question,) = found["questions"]
    assert question["about"] == "symbol"
    # Nobody takes it before it is answered, and nobody is alarmed.
    assert keys(store, open_with_bucket(store, hourly_event(), "coingecko")) == set()
    assert store.alerts.count_documents({}) == 0
    state: Document = store.sources.find_one({"_id": "csv"}) or {}
    assert "failures" not in state


def test_an_answer_loads_it_by_the_next_run_whoever_starts_it(store: Store, bucket: Bucket) -> None:
    """The one that answers may die before it has started a run."""
    carry_out(store, bucket.put("incoming/prices.csv", ASKS))
    asking.answer(store, the_waiting(store)["_id"], {"symbol": "MSFT"})

    run = take_again(store)

    assert totals(run) == {"inserted": 3}
    assert {record["symbol"] for record in store.market_data.find()} == {"MSFT"}
    assert waiting(store) == []
    assert totals(take_again(store)) == {}


def test_an_answer_may_leave_another_question(store: Store, bucket: Bucket) -> None:
    carry_out(store, bucket.put("incoming/prices.csv", "Date,Close\n03/04/2025,1\n09/07/2025,2\n"))
    assert {q["about"] for q in the_waiting(store)["questions"]} == {"symbol", "dates"}
    asking.answer(store, the_waiting(store)["_id"], {"symbol": "A"})
    take_again(store)
    assert {q["about"] for q in the_waiting(store)["questions"]} == {"dates"}
    asking.answer(store, the_waiting(store)["_id"], {"dates": "day_first"})
    assert totals(take_again(store)) == {"inserted": 2}
    assert [str(r["timestamp"])[:10] for r in store.market_data.find().sort("_id")] == [
        "2025-04-03",
        "2025-07-09",
    ]


def test_answering_twice_is_told_and_changes_nothing(store: Store, bucket: Bucket) -> None:
    carry_out(store, bucket.put("incoming/prices.csv", ASKS))
    id_ = the_waiting(store)["_id"]
    asking.answer(store, id_, {"symbol": "A"})
    with pytest.raises(StateConflict, match="answered already"):
        asking.answer(store, id_, {"symbol": "B"})
    take_again(store)
    with pytest.raises(StateConflict, match="is loaded"):
        asking.answer(store, id_, {"symbol": "B"})
    assert {record["symbol"] for record in store.market_data.find()} == {"A"}


@pytest.mark.parametrize("dies", ["object", "input"])
def test_a_call_that_dies_while_it_asks_leaves_a_file_that_waits(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    """Before the object is noted it is asked again; after that the end of the run notes it."""
    opened = open_with_bucket(store, bucket.put("incoming/prices.csv", ASKS))
    (item,) = opened["inputs"]

    class Dead(BaseException):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Dead

    with monkeypatch.context() as patched:
        if dies == "object":
            patched.setattr(asking, "wait", die)
        else:
            patched.setattr("marketdata.runs.uploads.Extraction.note", die)
        with pytest.raises(Dead):
            extract(store, item["run_id"], item["input"])
    if dies == "object":
        assert extract(store, item["run_id"], item["input"]).state == "waiting"
    run = closing.close(store, opened["run_id"])
    assert [result["status"] for result in run["results"]] == ["waiting"]
    asking.answer(store, the_waiting(store)["_id"], {"symbol": "A"})
    assert totals(take_again(store)) == {"inserted": 3}


@pytest.mark.parametrize("newer_first", [False, True])
def test_a_newer_version_ends_the_waiting_of_an_older_one(
    store: Store, bucket: Bucket, newer_first: bool
) -> None:
    old = bucket.put("incoming/prices.csv", ASKS)
    first = open_with_bucket(store, old)
    (item,) = first["inputs"]
    if not newer_first:
        # Without a look at the bucket: the newer one comes while this one is read.
        assert extract(store, item["run_id"], item["input"], objects=S3Objects()).state == "waiting"
    new = bucket.put("incoming/prices.csv", ASKS + "2025-05-10,1.8\n", symbol="MSFT")
    store.objects.update_one({}, [{"$set": {"last_modified": {"$add": ["$last_modified", -5000]}}}])
    run = carry_out(store, new)
    assert totals(run) == {"inserted": 4}
    if newer_first:
        ended = extract(store, item["run_id"], item["input"], objects=S3Objects())
        assert ended.state == "skipped"
    closing.close(store, first["run_id"])
    assert waiting(store) == []
    (older,) = store.objects.find({"version_id": old["detail"]["object"]["version-id"]})
    assert older["state"] == "done"
    assert "newer version" in older["reason"]


def test_an_answer_is_remembered_for_files_like_it_and_taken_back(
    store: Store, bucket: Bucket
) -> None:
    carry_out(store, bucket.put("incoming/desk/a.csv", ORDERS))
    answered = asking.answer(store, the_waiting(store)["_id"], {"dates": "month_first"})
    kept = asking.remember(store, answered, {"dates": "month_first"})
    take_again(store)

    more = ORDERS.replace("2025", "2024")
    run = carry_out(store, bucket.put("incoming/desk/b.csv", more))
    assert totals(run) == {"inserted": 2}
    (note,) = run["inputs"].values()
    assert any("Answers that are remembered" in warning for warning in note["warnings"])
    (told,) = asking.list_remembered(store, limit=5)
    assert (told["used"], told["prefix"], told["_id"]) == (1, "incoming/desk/", kept)
    # Elsewhere it is asked, and so is it if the header is another one.
    carry_out(store, bucket.put("incoming/other/b.csv", more))
    carry_out(store, bucket.put("incoming/desk/c.csv", more.replace("close", "last")))
    assert len(waiting(store)) == 2
    # What is said with a file outranks what is remembered, and is not told as used.
    run = carry_out(store, bucket.put("incoming/desk/d.csv", ORDERS, dates="day_first"))
    (note,) = run["inputs"].values()
    assert not any("remembered" in warning for warning in note["warnings"])

    asking.forget(store, kept)
    carry_out(store, bucket.put("incoming/desk/e.csv", ORDERS.replace("2025", "2023")))
    assert len(waiting(store)) == 3


def test_metadata_answers(store: Store, bucket: Bucket) -> None:
    event = bucket.put("incoming/a.csv", ASKS, symbol="msft", interval="1d", **{"asset-id": "us-1"})
    assert totals(carry_out(store, event)) == {"inserted": 3}
    stored = store.market_data.find()
    assert {(r["symbol"], r["asset_id"], r.get("interval")) for r in stored} == {
        ("MSFT", "us-1", "1d")
    }

    run = carry_out(store, bucket.put("incoming/b.csv", ASKS, symbol="A", dates="sideways"))
    (result,) = run["results"]
    assert result["status"] == "failed"
    assert "x-amz-meta-dates" in result["error"]["message"]
    assert "day_first or month_first" in result["error"]["message"]


def test_an_answer_about_columns_that_are_not_there_is_refused(
    store: Store, bucket: Bucket
) -> None:
    carry_out(store, bucket.put("incoming/a.csv", ASKS))
    asking.answer(store, the_waiting(store)["_id"], {"columns": {"Ticker": "symbol"}})
    run = take_again(store)
    (result,) = run["results"]
    assert "no such column" in result["error"]["message"]
    assert "'Date', 'Close'" in result["error"]["message"]


ANSWERS = st.lists(
    st.sampled_from([{"symbol": "A"}, {"dates": "day_first"}, {"symbol": "B"}]),
    min_size=1,
    max_size=4,
)


@given(answers=ANSWERS)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_is_loaded_once_whatever_is_answered_and_how_often(
    store: Store, bucket: Bucket, answers: list[Answers]
) -> None:
    for collection in (store.objects, store.market_data, store.runs, store.batches, store.answers):
        collection.delete_many({})
    text = "Date,Close\n03/04/2025,1\n09/07/2025,2\n"
    carry_out(store, bucket.put("incoming/a.csv", text))
    known: dict[str, str] = {}
    for said in answers:
        id_ = store.objects.find_one({})["_id"]  # type: ignore[index]
        if waiting(store):
            asking.answer(store, id_, said)
            known |= said  # type: ignore[arg-type]
        else:
            with pytest.raises(StateConflict):
                asking.answer(store, id_, said)
        take_again(store)
    complete = {"symbol", "dates"} <= known.keys()
    assert len(records(store)) == (2 if complete else 0)
    assert len(waiting(store)) == (0 if complete else 1)


def test_a_batch_of_an_answered_file_is_loaded_like_any_other(store: Store, bucket: Bucket) -> None:
    carry_out(store, bucket.put("incoming/prices.csv", ASKS))
    asking.answer(store, the_waiting(store)["_id"], {"symbol": "MSFT"})
    opened = open_with_bucket(store, hourly_event())
    (item,) = opened["inputs"]
    extracted = extract(store, item["run_id"], item["input"])
    for number in [*extracted.numbers, *extracted.numbers]:
        load_batch(store, BatchKey(item["run_id"], item["input"], number), S3Objects())
    assert totals(closing.close(store, opened["run_id"])) == {"inserted": 3}
    assert objects.owner(store, item["input"]) == opened["run_id"]
