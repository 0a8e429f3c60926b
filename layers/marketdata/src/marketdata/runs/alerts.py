"""Telling whoever operates the service what needs a person, since nobody is watching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pydantic import Field

from marketdata import clock
from marketdata.documents.alerts import NewAlert
from marketdata.documents.errors import FailedInput, StoredError
from marketdata.documents.runs import Result, ResultStatus
from marketdata.documents.sources import Failures, Frozen, Source
from marketdata.errors import TerminalError, TransientError
from marketdata.logs import make_logger
from marketdata.settings import Settings
from marketdata.store import alerts, leases
from marketdata.store.batches import reclaiming
from marketdata.store.batches.reclaiming import DeadLettered
from marketdata.store.connection import Store

_LOG = make_logger()

_MESSAGE_CHARACTERS = 1_000
_MOST_FAILURES = 2
"""Alerts in a call that could not be sent now; the topic is out of reach then."""


class AlertSettings(Settings):
    """When and where alerts are sent."""

    alert_after_failures: int = Field(default=3, ge=1, le=1_000)
    """Failures in a row of one source."""
    alert_topic_arn: str = ""
    """Empty where nobody is to be told; alerts are then only kept."""


class FrozenSettings(Settings):
    """When a source counts as frozen."""

    frozen_after: str = Field(default="3", pattern=r"^\d{1,6}(,[A-Za-z0-9_]+=\d{1,6})*$")
    """Firings of the schedule; 0 for never. One number for all sources, and others after it by
    name, as in `3,coinpaprika=24`."""
    schedule: str = "rate(1 hour)"
    """The schedule's expression."""

    def firings_of(self, source: str) -> int:
        """After how many firings this source counts as frozen; 0 for never."""
        of_all, *of_some = self.frozen_after.split(",")
        named = dict(one.split("=") for one in of_some)
        return int(named.get(source, of_all))


type MustMove = Callable[[str, datetime], datetime | None]
"""By when a source's newest observation must have moved that moved last at a time; None if it
need not."""


class Notifier(Protocol):
    """What carries alerts to people: a topic of SNS, seen from here."""

    def publish(self, subject: str, text: str, attributes: Mapping[str, str]) -> str:
        """Send a message; returns its id.

        Raises:
            TransientError: it could not be sent now.
            TerminalError: it, or what it is sent to, will be refused the next time as well.
        """


def count_outcomes(store: Store, run_id: str, results: Sequence[Result]) -> None:
    """Count for each source of a run that ends whether it failed, once.

    One that brought everything, or had nothing new, has not failed; anything else has. A source of
    which nothing but files without content came stays as it was.
    """
    by_source: dict[str, FailedInput | None] = {}
    for result in results:
        if says_nothing(result):
            continue
        error: FailedInput | None = None
        if not succeeded(result):
            status = result["status"]
            why: StoredError = result["error"] or {"code": status, "message": status}
            error = {**why, "run_id": run_id, "input": result["input"]}
        by_source[result["source"]] = by_source.get(result["source"]) or error
    for source, error in by_source.items():
        alerts.count_outcome(store, source, run_id, error)


def succeeded(result: Result) -> bool:
    """Whether an input came to its good end; it may have been skipped as it was unchanged."""
    return result["status"] == ResultStatus.SUCCESS or (
        result["status"] == ResultStatus.SKIPPED and result["error"] is None
    )


def says_nothing(result: Result) -> bool:
    """Whether an input is a file that there was nothing to load of: empty, superseded, or waiting.

    That says neither that files can be loaded, nor that they can't.
    """
    return (
        leases.is_object(result["input"])
        and result["status"] in (ResultStatus.SKIPPED, ResultStatus.WAITING)
        and result["error"] is None
        and result["batches"] == 0
    )


def note_died(store: Store, run_id: str, why: str) -> None:
    """Alert that a run did not come to its end by itself."""
    alerts.put(
        store,
        f"died/{run_id}",
        {
            "kind": "run_died",
            "subject": f"Run {run_id} did not come to its end",
            "text": f"Run {run_id} did not come to its end by itself: {why} What it had loaded "
            "stays, and the next run reclaims the rest.\n\n"
            f"GET /runs/{run_id} shows how far it got.",
            "run_id": run_id,
        },
    )


def note_execution_died(store: Store, execution: str, why: str) -> None:
    """Alert that an execution ended badly which never became a run."""
    alerts.put(
        store,
        f"died/{execution}",
        {
            "kind": "execution_died",
            "subject": "An execution ended before it became a run",
            "text": f"The execution {execution} ended before it became a run: {why}",
        },
    )


def review(store: Store, after: int) -> None:
    """Write an alert for each source that has failed `after` times in a row, or works again.

    A series of failures is known by its first run, so that finding it again is the same alert.
    """
    for source, failures in alerts.failures(store):
        consecutive, alerted = failures["consecutive"], failures.get("alerted")
        series = f"failing/{source}/{failures.get('first_run_id')}"
        if alerted is not None and (consecutive == 0 or alerted != series):
            recovered = _recovered(source, reclaiming.dead_lettered_by_source(store).get(source))
            alerts.put(store, alerted.replace("failing/", "recovered/", 1), recovered)
            alerts.set_alerted(store, source, alerted, None)
            alerted = None
        if alerted is None and consecutive >= after:
            alerts.put(store, series, _failing(source, failures))
            alerts.set_alerted(store, source, None, series)


def review_frozen(store: Store, must_move: MustMove) -> None:
    """Note which sources are frozen, and write an alert for each that is, or moves again.

    A source is frozen when its newest observation has not moved for longer than it may, though the
    source has answered since: one that does not answer is failing. Being frozen is known by the
    newest observation, so that finding it again is the same alert.
    """
    for document in alerts.answered(store):
        source, was = document["_id"], document.get("frozen")
        frozen = _frozen(document, must_move)
        if (frozen and frozen["alert"]) == (was and was["alert"]):
            continue
        if was is not None:
            kind = "frozen/", "moving/"
            alerts.put(store, was["alert"].replace(*kind, 1), _moving(source, was))
        if frozen is not None:
            alerts.put(store, frozen["alert"], _standing_still(document, frozen))
        alerts.set_frozen(store, source, was, frozen)


def _frozen(document: Source, must_move: MustMove) -> Frozen | None:
    watermark = document["watermarks"]
    newest, received_at = watermark["timestamp"], watermark["received_at"]
    if newest is None or received_at is None:
        return None
    # A time that lies ahead stands still until it comes, and says nothing of the source.
    since = max(watermark.get("advanced_at") or watermark["moved_at"], newest)
    due = must_move(document["_id"], since)
    if due is None or received_at < due:
        return None
    return {
        "since": since,
        "newest": newest,
        "alert": f"frozen/{document['_id']}/{clock.iso(newest)}",
    }


def _standing_still(document: Source, frozen: Frozen) -> NewAlert:
    source, watermark = document["_id"], document["watermarks"]
    received_at = watermark["received_at"] or frozen["since"]
    return {
        "kind": "source_frozen",
        "source": source,
        "subject": f"{source} answers, and its newest observation does not move",
        "text": f"The newest observation of {source} is of {clock.iso(frozen['newest'])}. It has "
        f"not moved since {clock.iso(frozen['since'])}, though {source} has answered, last at "
        f"{clock.iso(received_at)}. What is stored stays as it is. Look whether {source} itself "
        "shows newer values. If it is meant to be so slow, set FROZEN_AFTER, for this source "
        f"alone as in `3,{source}=24`.\n\nThere is one more message when it moves again.",
        "run_id": watermark["run_id"],
    }


def _moving(source: str, frozen: Frozen) -> NewAlert:
    return {
        "kind": "source_moving",
        "source": source,
        "subject": f"The newest observation of {source} moves again",
        "text": f"The newest observation of {source}, which had not moved since "
        f"{clock.iso(frozen['since'])}, has moved; or {source} is not judged any more, as SOURCES "
        "or FROZEN_AFTER has changed.",
    }


def _failing(source: str, failures: Failures) -> NewAlert:
    error = failures["last_error"]
    message = str(error.get("message", ""))[:_MESSAGE_CHARACTERS]
    return {
        "kind": "source_failing",
        "source": source,
        "subject": f"{source} has failed {failures['consecutive']} times in a row",
        "text": f"The source {source} has failed in {failures['consecutive']} runs in a row, since "
        f"run {failures['first_run_id']}. The last error ({error.get('code')}, input "
        f"{error.get('input')}):\n\n{message}\n\n"
        f"GET /runs/{failures['last_run_id']} shows the run. There is one more message when the "
        "source works again.",
        "run_id": failures["last_run_id"],
    }


def _recovered(source: str, given_up: DeadLettered | None) -> NewAlert:
    subject = f"{source} works again"
    text = f"The source {source}, which had failed several times in a row, works again."
    if given_up is not None:
        subject += ", but has dead-lettered batches"
        text += (
            f"\n\nIts dead-lettered batches: {given_up.batches}. Their rows are not loaded, and no "
            "run tries them again by itself. Remove the cause, which GET /runs/RUN names in "
            "`failed_batches`, and ask for POST /runs/RUN/retry, for each of these runs:\n\n"
            + "\n".join(given_up.runs)
            + "\n\nGET /stats has `parked_batches` as long as there are any."
        )
    return {"kind": "source_recovered", "source": source, "subject": subject, "text": text}


def send(store: Store, notifier: Notifier | None) -> int:
    """Send the alerts that are not sent yet, the oldest first; returns how many.

    Without a notifier they count as sent: they are kept, and nobody is told. One that is refused is
    set aside. One that can't be sent now is left for the next call, and the others are tried.

    Raises:
        TransientError: some could not be sent now.
    """
    sent, failed = 0, list[tuple[str, TransientError]]()
    try:
        while len(failed) < _MOST_FAILURES and (alert := alerts.claim(store)) is not None:
            try:
                message_id = notifier and notifier.publish(
                    alert["subject"],
                    alert["text"],
                    {"alert_id": alert["_id"], "kind": alert["kind"]},
                )
            except TransientError as error:
                failed.append((alert["_id"], error))
            except TerminalError as error:
                _LOG.error("Alert %s is set aside: %s", alert["_id"], error)
                alerts.set_aside(store, alert["_id"], {"code": error.code, "message": str(error)})
            except BaseException:
                alerts.unclaim(store, alert["_id"])
                raise
            else:
                alerts.note_sent(store, alert["_id"], message_id or None)
                sent += 1
    finally:
        for alert_id, _ in failed:
            alerts.unclaim(store, alert_id)
    if failed:
        raise failed[0][1]
    return sent


def send_or_log(store: Store, notifier: Notifier | None) -> None:
    """As `send`, for who has done its work already: what fails is logged, and sent the next time.

    Alerts are about runs; that one can't be sent is no reason for a run to fail.
    """
    try:
        send(store, notifier)
    except Exception:  # noqa: BLE001 - whatever it is, the run has ended well
        _LOG.exception("Alerts could not be sent; they are kept, and sent by the next run.")
