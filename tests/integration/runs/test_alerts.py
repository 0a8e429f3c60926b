"""Alerts: each once, whoever dies in the middle of counting, writing or sending."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import boto3
import pytest
from moto import mock_aws

from marketdata import clock
from marketdata.aws.sns import Topic
from marketdata.documents.errors import StoredError
from marketdata.documents.sources import Failures
from marketdata.errors import ConservationBroken, TerminalError, TransientError
from marketdata.runs import alerts, closing, opening, starting, triggers
from marketdata.runs.closing import Closed, NothingToClose
from marketdata.runs.triggers import RunRequest
from marketdata.store import alerts as kept
from marketdata.store import run_inputs, runs
from marketdata.store.batches import queue, reports
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.runs import Created
from tests.support.documents import Document
from tests.support.events import hourly_event
from tests.support.gateway import make_gateway, ok
from tests.support.pipeline import coin, put_rows
from tests.support.uploads import HEADER, Bucket, carry_out, rows

FAILED = {"status": "failed", "error": {"code": "upstream_refused", "message": "401"}}
FINE: Document = {"status": "extracted", "error": None}


class Mail:
    """Keeps what would be sent; fails as it is told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.broken = False

    def publish(self, subject: str, text: str, attributes: Mapping[str, str]) -> str:
        assert subject
        assert text
        if self.broken:
            raise TransientError("SNS does not answer.")
        self.sent.append((attributes["kind"], attributes["alert_id"]))
        return f"message {len(self.sent)}"


@pytest.fixture
def mail() -> Mail:
    return Mail()


def open_run(store: Store) -> str:
    envelope = hourly_event()
    opened = opening.open_run(store, envelope, envelope["id"], ["coingecko"])
    return str(opened["run_id"])


def run_with(store: Store, note: Document) -> str:
    """A run whose source ends so; closed, and closed again as after a lost answer."""
    run_id = open_run(store)
    run_inputs.set_input(store, run_id, "coingecko", note)
    for _ in range(2):
        closing.close(store, run_id)
    return run_id


def tell(store: Store, mail: Mail, after: int = 3) -> None:
    """What close_run does after closing, twice, as it may be retried."""
    for _ in range(2):
        alerts.review(store, after)
        alerts.send(store, mail)


def failures(store: Store) -> Failures:
    ((_, found),) = kept.failures(store)
    return found


def test_failures_in_a_row_alert_once_and_recovery_once(store: Store, mail: Mail) -> None:
    first = ""
    for number in range(1, 6):
        run_id = run_with(store, FAILED)
        first = first or run_id
        tell(store, mail)
        assert failures(store)["consecutive"] == number
        assert len(mail.sent) == (number >= 3)
    assert mail.sent == [("source_failing", f"failing/coingecko/{first}")]
    for _ in range(2):
        run_with(store, FINE)
        tell(store, mail)
    assert mail.sent[1:] == [("source_recovered", f"recovered/coingecko/{first}")]
    told = store.database["alerts"].find_one({"kind": "source_recovered"})
    assert told is not None
    assert told["subject"] == "coingecko works again"
    assert "given up" not in told["text"]
    assert failures(store)["consecutive"] == 0
    # A second series is another alert.
    for _ in range(3):
        run_with(store, FAILED)
        tell(store, mail)
    assert [kind for kind, _ in mail.sent[2:]] == ["source_failing"]


def test_recovery_says_what_is_dead_lettered_all_the_same(store: Store, mail: Mail) -> None:
    owners = []
    for number in range(5):
        run_id = open_run(store)
        if number == 0:
            put_rows(store, [coin("bad")], run_id=run_id)
        for key in reports.of_run(store, run_id):
            begun = queue.begin(store, BatchKey(run_id, "coingecko", key["number"]))
            assert begun is not None
            queue.fail(
                store,
                BatchKey(run_id, "coingecko", key["number"]),
                begun["attempts"],
                ConservationBroken("lost"),
            )
            owners.append(run_id)
        run_inputs.set_input(store, run_id, "coingecko", FINE)
        closing.close(store, run_id)
        tell(store, mail)
    # The fifth run has not reclaimed it any more, and is a success.
    assert [kind for kind, _ in mail.sent] == ["source_failing", "source_recovered"]
    told = store.database["alerts"].find_one({"kind": "source_recovered"})
    assert told is not None
    assert told["subject"] == "coingecko works again, but has dead-lettered batches"
    assert "dead-lettered batches: 1." in told["text"]
    assert "POST /runs/RUN/retry" in told["text"]
    assert owners[-1] in told["text"].split("\n")


def test_what_is_no_failure_and_what_is_one(store: Store) -> None:
    for note, consecutive in (
        ({"status": "throttled", "error": {"code": "throttled", "message": "wait"}}, 1),
        ({"status": "skipped", "error": {"code": "circuit_open", "message": "open"}}, 2),
        ({"status": "skipped", "error": None}, 0),
        ({"status": "extracting", "error": None}, 1),
        (FINE, 0),
    ):
        run_with(store, note)
        assert failures(store)["consecutive"] == consecutive, note


def state_of_service(store: Store) -> Document:
    """What `/health` says of the service, without what differs with each request."""
    body = ok(make_gateway(lambda: store).get("/health"))
    return {name: body[name] for name in ("status", "data", "last_run", "run_id")}


def test_files_without_content_are_neither_failures_nor_successes(
    store: Store, mail: Mail, bucket: Bucket
) -> None:
    before = state_of_service(store)
    paths = [f"incoming/{number}.csv" for number in range(4)]
    for path in paths:
        run = carry_out(store, bucket.put(path, b""))
        assert [result["status"] for result in run["results"]] == ["skipped"]
        tell(store, mail)
        assert state_of_service(store) == before
    for path in paths:
        late = bucket.put(path, HEADER + rows(1))
        newest = bucket.put(path, HEADER + rows(2))
        # One that was superseded says no more than an empty one.
        told = state_of_service(store)
        assert carry_out(store, late)["results"][0]["status"] == "skipped"
        assert state_of_service(store) == told
        assert carry_out(store, newest)["status"] == "success"
        tell(store, mail)
    after = state_of_service(store)
    assert after["status"] == "ok"
    assert after["last_run"]["status"] == "success"
    assert failures(store)["consecutive"] == 0
    assert mail.sent == []


def test_files_that_fail_go_on_failing_when_an_empty_one_follows(
    store: Store, mail: Mail, bucket: Bucket
) -> None:
    for number in range(3):
        run = carry_out(store, bucket.put(f"incoming/bad{number}.csv", "no,columns\n1,2\n"))
        assert run["status"] == "failed"
        tell(store, mail)
    failing = state_of_service(store)
    assert failing["status"] == "degraded"
    assert failing["data"]["failing_sources"] == [{"source": "csv", "failures": 3, "alerted": True}]

    carry_out(store, bucket.put("incoming/empty.csv", b""))
    tell(store, mail)

    assert state_of_service(store) == failing
    assert [kind for kind, _ in mail.sent] == ["source_failing"]
    # One whose content is known was loaded, and that is a success.
    carry_out(store, bucket.put("incoming/good.csv", HEADER + rows(1)))
    carry_out(store, bucket.put("incoming/again.csv", HEADER + rows(1)))
    tell(store, mail)
    assert state_of_service(store)["status"] == "ok"
    assert [kind for kind, _ in mail.sent] == ["source_failing", "source_recovered"]


def test_the_end_of_a_run_is_counted_once_even_late(store: Store) -> None:
    run_id = run_with(store, FAILED)
    run_with(store, FAILED)
    # A call that had hung since before the second run began.
    kept.count_outcome(store, "coingecko", run_id, {"code": "x", "message": "x"})
    assert failures(store)["consecutive"] == 2


def test_an_alert_that_can_not_be_sent_is_kept(store: Store, mail: Mail) -> None:
    for _ in range(3):
        run_with(store, FAILED)
    mail.broken = True
    alerts.review(store, 3)
    with pytest.raises(TransientError):
        alerts.send(store, mail)
    mail.broken = False
    tell(store, mail)
    assert [kind for kind, _ in mail.sent] == ["source_failing"]


def test_who_dies_while_sending_leaves_it_to_the_next_after_a_while(
    store: Store, mail: Mail
) -> None:
    for _ in range(3):
        run_with(store, FAILED)
    alerts.review(store, 3)
    claimed = kept.claim(store)
    assert claimed is not None
    # Another one leaves it alone as long as the first may be at it...
    assert alerts.send(store, mail) == 0
    # ...and then sends it, under the same id: at least once.
    store.database["alerts"].update_one({}, {"$set": {"claimed_until": clock.EPOCH}})
    assert alerts.send(store, mail) == 1
    assert mail.sent == [("source_failing", claimed["_id"])]


def test_who_dies_between_writing_an_alert_and_noting_it_makes_no_second(
    store: Store, mail: Mail
) -> None:
    for _ in range(3):
        run_with(store, FAILED)
    alerts.review(store, 3)
    kept.set_alerted(store, "coingecko", failures(store)["alerted"], None)
    tell(store, mail)
    assert len(mail.sent) == 1


def test_a_series_that_ended_unseen_is_told_before_the_next(store: Store, mail: Mail) -> None:
    for _ in range(3):
        run_with(store, FAILED)
    tell(store, mail)
    run_with(store, FINE)
    for _ in range(3):
        run_with(store, FAILED)
    tell(store, mail)
    assert [kind for kind, _ in mail.sent] == [
        "source_failing",
        "source_recovered",
        "source_failing",
    ]


# --- executions that died -----------------------------------------------------------------------

DIED: StoredError = {"code": "execution_aborted", "message": "Its execution ended as ABORTED."}


def test_the_run_of_a_dead_execution_is_closed_and_told_of_once(store: Store, mail: Mail) -> None:
    envelope = hourly_event()
    run_id = opening.open_run(store, envelope, "arn:x", ["coingecko"])["run_id"]
    run_inputs.set_input(store, run_id, "coingecko", {"lease": 99})  # it lost it, too
    for _ in range(2):
        closing.close_execution(store, "arn:x", envelope, DIED)
        tell(store, mail)
    run = runs.get(store, run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "execution_aborted")
    assert mail.sent == [("run_died", f"died/{run_id}")]
    assert open_run(store)


def test_a_run_whose_execution_never_spoke_is_found_by_its_input(store: Store, mail: Mail) -> None:
    trigger = triggers.on_demand(RunRequest())
    envelope = triggers.execution_input(trigger.run_id)
    assert starting.create(store, trigger, ["coingecko"]) == Created(trigger.run_id)
    # One of another name has nothing to do with it.
    other = closing.close_execution(store, "arn:other", envelope, DIED)
    assert isinstance(other, NothingToClose)
    assert trigger.run_id in other.why
    assert runs.get(store, trigger.run_id)["status"] == "running"
    closed = closing.close_execution(store, f"arn:{trigger.run_id}", envelope, DIED)
    assert isinstance(closed, Closed)
    assert (closed.run["_id"], closed.run["status"]) == (trigger.run_id, "failed")
    tell(store, mail)
    assert [kind for kind, _ in mail.sent] == ["run_died"]


def test_a_run_that_ended_by_itself_is_left_as_it_is(store: Store, mail: Mail) -> None:
    envelope = hourly_event()
    run_id = opening.open_run(store, envelope, "arn:x", ["coingecko"])["run_id"]
    run_inputs.set_input(store, run_id, "coingecko", FINE)
    ended = closing.close(store, run_id)
    assert isinstance(closing.close_execution(store, "arn:x", envelope, DIED), NothingToClose)
    tell(store, mail)
    assert mail.sent == []
    assert runs.get(store, run_id) == ended


def test_an_execution_that_never_became_a_run_is_told_of(store: Store, mail: Mail) -> None:
    outcome = closing.close_execution(store, "arn:x", {}, DIED)
    assert outcome == NothingToClose("The execution never became a run.")
    tell(store, mail)
    assert mail.sent == [("execution_died", "died/arn:x")]


def test_an_orphan_is_told_of(store: Store, mail: Mail) -> None:
    run_id = open_run(store)
    store.runs.update_one({"_id": run_id}, {"$set": {"expires_at": clock.EPOCH}})
    open_run(store)
    tell(store, mail)
    assert mail.sent == [("run_died", f"died/{run_id}")]


# --- the topic ----------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        yield


def test_an_alert_reaches_who_subscribed(aws: None) -> None:
    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    url = sqs.create_queue(QueueName="mailbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["QueueArn"])
    subject = "cöingecko\nhas failed " + "x" * 100
    assert Topic(topic).publish(subject, "It says 401.", {"alert_id": "a/b", "kind": "k"})
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    assert "It says 401." in message["Body"]
    assert "c?ingecko has failed" in message["Body"]
    with pytest.raises(TerminalError, match="kept in the collection"):
        Topic(topic + "-gone").publish("s", "t", {})


def test_one_alert_that_can_not_be_sent_stops_no_other(store: Store, mail: Mail) -> None:
    class Picky(Mail):
        faults: ClassVar[dict[str, Exception]] = {
            "0": TerminalError("refused"),
            "1": TransientError("no answer"),
        }

        def publish(self, subject: str, text: str, attributes: Mapping[str, str]) -> str:
            if (fault := self.faults.get(attributes["alert_id"])) is not None:
                raise fault
            return super().publish(subject, text, attributes)

    for number in "0123":
        kept.put(store, number, {"kind": "k", "subject": "s", "text": "t"})
    alerts.send_or_log(store, Picky())
    assert store.database["alerts"].distinct("_id", {"sent_at": None}) == ["0", "1"]
    # The refused one is kept and not tried again; the other one is.
    assert alerts.send(store, mail) == 1
    assert mail.sent == [("k", "1")]
    (aside,) = store.database["alerts"].find({"sent_at": None})
    assert (aside["_id"], aside["set_aside"]["error"]["message"]) == ("0", "refused")


def test_where_nothing_can_be_sent_it_is_given_up_soon(store: Store, mail: Mail) -> None:
    mail.broken = True
    for number in range(9):
        kept.put(store, str(number), {"kind": "k", "subject": "s", "text": "t"})
    alerts.send_or_log(store, mail)
    assert store.database["alerts"].count_documents({"tries": {"$gt": 0}}) == 2
    mail.broken = False
    assert alerts.send(store, mail) == 9


def test_without_a_topic_alerts_are_only_kept(store: Store) -> None:
    for _ in range(3):
        run_with(store, FAILED)
    alerts.review(store, 3)
    assert alerts.send(store, None) == 1
    (alert,) = store.database["alerts"].find()
    made: Any = alert["made_at"]
    assert alert["sent_at"] >= made
