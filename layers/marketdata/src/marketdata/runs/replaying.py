"""Replaying quarantine: rows that were set aside are read again, and loaded if they can be.

A row is read from its raw batch, as it was received, with today's code and at the present time.
The rows of a batch that are records now become a *replay batch*, which the loader loads like any
other. It says whose rows it resolves; the counts of that batch and of its run never change. Then
the rows are taken out of quarantine.

The order is: make the replay batch, load it, take the rows out. Whoever dies in between leaves a
replay batch that is not loaded, which the next replay loads first, or rows that are resolved,
which the next replay of these rows takes out. Two replays at once can't both make the same replay
batch; the second one leaves the rows to the first.

The replay batches of one call belong to a run of its own, with the trigger `replay`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

from marketdata.documents.batches import Batch, BatchState
from marketdata.documents.quarantine import QuarantinedRow, Reason
from marketdata.documents.raw_batches import RawBatch
from marketdata.documents.runs import InputStatus, NewRun, RunStatus
from marketdata.errors import TerminalError
from marketdata.load import loader
from marketdata.load.resolving import Ledger, ReplayRows
from marketdata.runs import closing, triggers
from marketdata.schema.record import Fault
from marketdata.store import quarantine, runs
from marketdata.store.batches import queue, replays
from marketdata.store.batches.batch import BatchKey
from marketdata.store.connection import Store
from marketdata.store.quarantine import Selection
from marketdata.store.raw_batches import find_raw
from marketdata.store.server_time import server_clock

MAX_ROWS = 1_000
"""Rows that one call tries at most."""
MAX_SECONDS = 12.0
"""Time after which a call begins with no further raw batch: API Gateway waits for 29 s."""
MAX_COUNTED = 100_000
"""Remaining rows are counted up to so many."""
LONGEST_CALL = timedelta(minutes=1)
"""Nobody is at a replay batch for longer than this: twice what API Gateway waits for."""

_ATTEMPTS = 5
_INPUT = "replay-{}"
"""The input of a replay's run, by source: it locks nothing that other runs load."""

_WHY = {
    "raw_expired": "The raw batch has expired, and the row can't be read again. A new run asks the "
    "source; a file can be uploaded again.",
    "not_loaded": "A batch that has the row is not loaded yet; it reads the row by itself.",
    "run_under_way": "The run that the row belongs to is under way. Try again when it has ended.",
    "no_batch": "No batch counts this row: it is of a page that was received anew in the same run.",
    "unreadable": "The raw batch as a whole can't be read: {}",
    "busy": "Another replay is at rows of the same raw batch, or was cut short. Try again in a "
    "minute.",
}
"""Why rows stay that were not even tried, by reason."""


@dataclass(slots=True)
class RawOutcome:
    """What became of the selected rows of one raw batch."""

    raw_id: str
    source: str
    batches: list[str]
    """The batches that count these rows."""
    replayed: int = 0
    loaded: int = 0
    still_quarantined: int = 0
    reason: str | None = None
    """Why the rows were not tried at all; None for those that were."""
    message: str | None = None


@dataclass(slots=True)
class Replay:
    """What one call did."""

    outcomes: list[RawOutcome] = field(default_factory=list)
    run_id: str | None = None
    """The run of its replay batches; None if it made none."""
    remaining: int = 0
    """Rows of the selection that come after those of this call, counted up to `MAX_COUNTED`."""
    after: str | None = None
    """Where to go on; None at the end."""

    def total(self, name: str) -> int:
        """The sum of a number over all raw batches."""
        return sum(getattr(outcome, name) for outcome in self.outcomes)


class _Changed(Exception):
    """What was read is not as it was any more: read again."""


class _Busy(Exception):
    """Another replay is at the rows."""


def replay(
    store: Store,
    selection: Selection,
    *,
    after: str | None = None,
    rows: int = MAX_ROWS,
    seconds: float = MAX_SECONDS,
) -> Replay:
    """Try the rows of a selection again, as many as fit into one call.

    Args:
        store: the database.
        selection: which rows.
        after: go on after the row of this id; see `Replay.after`.
        rows: how many at most.
        seconds: after so long no further raw batch is begun; the first always is.

    Raises:
        TransientError: MongoDB is out of reach. Rows that were loaded by then stay loaded.
    """
    deadline = time.monotonic() + seconds
    done = Replay(after=after)
    run = _ReplayRun(store)
    found = quarantine.select(store, selection, after=after, limit=rows)
    for raw_id, places in groupby(found, key=lambda place: str(place["raw_id"])):
        if done.outcomes and time.monotonic() > deadline:
            break
        ids = [place["_id"] for place in places]
        done.outcomes += _replay_raw(store, run, raw_id, ids)
        done.after = ids[-1]
    done.run_id = run.end()
    if found:
        done.remaining = quarantine.count(store, selection, after=done.after, limit=MAX_COUNTED)
    if not done.remaining:
        done.after = None
    return done


class _ReplayRun:
    """The run that the replay batches of a call belong to; made when the first one is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._run_id: str | None = None
        self._sources: set[str] = set()

    def next_key(self, source: str) -> BatchKey:
        """The key of the next replay batch of a source."""
        name = _INPUT.format(source)
        if self._run_id is None:
            self._run_id = self._create()
        if source not in self._sources:
            note = {
                "source": source,
                "status": InputStatus.EXTRACTED,
                "started_at": server_clock(self._store).now(),
            }
            runs.set_fields(self._store, self._run_id, {f"inputs.{name}": note})
            self._sources.add(source)
        number = queue.next_number(self._store, self._run_id, name)
        return BatchKey(self._run_id, name, number)

    def _create(self) -> str:
        trigger = triggers.of_replay()
        document: NewRun = {
            "_id": trigger.run_id,
            "trigger": trigger.kind,
            "event_id": trigger.event_id,
            "event_time": trigger.time,
            "execution": None,
            "status": RunStatus.RUNNING,
            "ended_at": None,
            # Of its own: replay batches are kept apart by themselves, and nobody waits for this.
            "holds": [trigger.run_id],
            "inputs": {},
            "pre_run_counts": None,
        }
        runs.create(self._store, document)
        return trigger.run_id

    def end(self) -> str | None:
        """End the run, if there is one; returns its id."""
        if self._run_id is not None:
            closing.close(self._store, self._run_id)
        return self._run_id


def _replay_raw(store: Store, run: _ReplayRun, raw_id: str, ids: Sequence[str]) -> list[RawOutcome]:
    """Try the selected rows of one raw batch."""
    raw = find_raw(store, raw_id)
    if raw is None:
        wanted = set(ids)
        return _left(
            [r for r in quarantine.of_raw(store, raw_id) if r["_id"] in wanted], "raw_expired"
        )
    work = _RawReplay(store, run, raw, ids)
    for _ in range(_ATTEMPTS):
        try:
            return work.attempt()
        except _Changed:
            continue
        except _Busy:
            break
    return work.outcomes(work.still_there(), "busy")


def _left(rows: Sequence[QuarantinedRow], reason: str, detail: str = "") -> list[RawOutcome]:
    """Rows that stay without having been tried."""
    if not rows:
        return []
    outcome = _outcome(rows)
    outcome.still_quarantined = len(rows)
    outcome.reason, outcome.message = reason, _WHY[reason].format(detail)
    return [outcome]


def _outcome(rows: Sequence[QuarantinedRow]) -> RawOutcome:
    batches = sorted({batch for row in rows for batch in row.get("batches", ())})
    return RawOutcome(rows[0]["raw_id"], rows[0]["source"], batches, replayed=len(rows))


class _RawReplay:
    """The selected rows of one raw batch, from reading them to taking them out of quarantine."""

    def __init__(self, store: Store, run: _ReplayRun, raw: RawBatch, ids: Sequence[str]) -> None:
        self._store = store
        self._run = run
        self._raw = raw
        self._wanted = set(ids)
        self._taken: list[QuarantinedRow] = []
        """Selected rows that this call has taken out of quarantine."""

    def still_there(self) -> list[QuarantinedRow]:
        """The selected rows that are in quarantine."""
        rows = quarantine.of_raw(self._store, self._raw["_id"])
        return [row for row in rows if row["_id"] in self._wanted]

    def outcomes(
        self, rows: Sequence[QuarantinedRow], reason: str, detail: str = ""
    ) -> list[RawOutcome]:
        """What became of the rows so far, when these stay without having been tried."""
        return [*self._tried(()), *_left(rows, reason, detail)]

    def _tried(self, stay: Sequence[QuarantinedRow]) -> list[RawOutcome]:
        """What became of the rows that were tried, of which these stay."""
        rows = [*self._taken, *stay]
        if not rows:
            return []
        outcome = _outcome(rows)
        outcome.loaded, outcome.still_quarantined = len(self._taken), len(stay)
        return [outcome]

    def attempt(self) -> list[RawOutcome]:
        """Try the rows once.

        Raises:
            _Changed: something is not as it was read; nothing is lost by reading it again.
            _Busy: another replay is at rows of this raw batch.
        """
        ledger = Ledger.read(self._store, self._raw["_id"], mark=True)
        try:
            self._load_unfinished(ledger)
            self._take_out(ledger)
            rows = [row for row in ledger.rows if row["_id"] in self._wanted and self._is_left(row)]
            blocked, free = self._parted(ledger, rows)
            faults = self._replay(ledger, free)
        except TerminalError as error:
            return self.outcomes(self.still_there(), "unreadable", str(error))
        stay = [row for row in free if row["row_number"] in faults]
        return [
            *self._tried(stay),
            *(outcome for reason, those in blocked.items() for outcome in _left(those, reason)),
        ]

    def _is_left(self, row: QuarantinedRow) -> bool:
        return all(row["_id"] != taken["_id"] for taken in self._taken)

    # --- what earlier replays left ------------------------------------------------------------

    def _load_unfinished(self, ledger: Ledger) -> None:
        """Load the replay batches of calls that were cut short.

        Raises:
            _Changed: there were some.
            _Busy: a call may still be at one.
        """
        unfinished = ledger.unfinished()
        if not unfinished:
            return
        now = server_clock(self._store).now()
        if any(_may_be_loading(replay, now) for replay in unfinished):
            raise _Busy
        for replay in unfinished:
            key = self._run.next_key(replay["source"])
            if not replays.take_over(self._store, replay, key):
                raise _Changed
            loader.load_batch(self._store, key)
        raise _Changed

    def _take_out(self, ledger: Ledger) -> None:
        """Take the selected rows out of quarantine that are resolved."""
        resolved = [row for row in ledger.resolved() if row["_id"] in self._wanted]
        gone = quarantine.take(self._store, resolved)
        self._taken += [row for row in resolved if row["_id"] in gone]

    # --- which rows can be tried --------------------------------------------------------------

    def _parted(
        self, ledger: Ledger, rows: Sequence[QuarantinedRow]
    ) -> tuple[dict[str, list[QuarantinedRow]], list[QuarantinedRow]]:
        """The rows that can't be tried now, by reason, and those that can."""
        blocked: dict[str, list[QuarantinedRow]] = {}
        free = []
        for row, reason in zip(rows, self._blocked(ledger, rows), strict=True):
            if reason is None:
                free.append(row)
            else:
                blocked.setdefault(reason, []).append(row)
        return blocked, free

    def _blocked(self, ledger: Ledger, rows: Sequence[QuarantinedRow]) -> Iterator[str | None]:
        under_way = runs.running(
            self._store, sorted({b["run_id"] for b in ledger.batches.values()})
        )
        # A batch that is being loaded may take one of these for known content: it had looked
        # before they were marked, or it never will.
        skipping = replays.loading_at(
            self._store, {b["place"] for b in ledger.batches.values() if "place" in b}
        )
        for row in rows:
            counting = ledger.counting(row)
            if not counting:
                yield "no_batch"
            elif skipping or any(batch["state"] != BatchState.LOADED for batch in counting):
                yield "not_loaded"
            elif any(batch["run_id"] in under_way for batch in counting):
                yield "run_under_way"
            else:
                yield None

    # --- trying them --------------------------------------------------------------------------

    def _replay(self, ledger: Ledger, rows: Sequence[QuarantinedRow]) -> dict[int, Fault]:
        """Load the rows that are records now; returns what is wrong with the others, by number."""
        if not rows:
            return {}
        # Of the server: what lies too far ahead of it is told by all functions alike.
        now = server_clock(self._store).now()
        wanted = {
            id_: {r["row_number"] for r in rows if batch in ledger.counting(r)}
            & ledger.open_rows(id_)
            for id_, batch in ledger.batches.items()
        }
        faults: dict[int, Fault] = {}
        for id_, numbers in wanted.items():
            if numbers:
                left_out = ledger.open_rows(id_) - numbers
                read = ReplayRows.read(self._raw, ledger.batches[id_], numbers, left_out, now)
                faults |= read.faults
        for id_, numbers in wanted.items():
            if good := sorted(numbers - faults.keys()):
                self._load(ledger, ledger.batches[id_], good, now)
        quarantine.note_reasons(self._store, list(_reasons(rows, faults)), now)
        if len(faults) < len(rows):
            after = Ledger.read(self._store, self._raw["_id"], mark=True)
            self._take_out(after)
            there = {row["_id"] for row in after.rows}
            if any(
                row["_id"] in there and self._is_left(row)
                for row in rows
                if row["row_number"] not in faults
            ):
                # Another batch counts it by now, or it was read otherwise.
                raise _Changed
        return faults

    def _load(self, ledger: Ledger, batch: Batch, rows: Sequence[int], now: datetime) -> None:
        """Make the next replay batch of a batch and load it."""
        key = self._run.next_key(batch["source"])
        place = len(ledger.of(batch["_id"]))
        if not replays.put(self._store, key, batch, rows, place, now):
            raise _Changed
        loader.load_batch(self._store, key)


def _may_be_loading(replay: Batch, now: datetime) -> bool:
    """Whether the call that made a replay batch, or took it over, may still be at it."""
    if replay["state"] == BatchState.FAILED:
        return False
    since: datetime = replay.get("loading_since") or replay["created_at"]
    return now - since < LONGEST_CALL


def _reasons(rows: Iterable[QuarantinedRow], faults: dict[int, Fault]) -> Iterator[Reason]:
    for row in rows:
        fault = faults.get(row["row_number"])
        if fault is not None:
            message = fault.message.encode("utf-8", "backslashreplace").decode()
            yield {
                "_id": row["_id"],
                "reason": fault.code,
                "field": fault.field,
                "message": message,
            }
