"""Replaying quarantine: rows that were set aside are read and judged again, and loaded if they can.

A row is read from its raw batch, as it was received, with today's code and at the present time.
Its record is written first, as idempotent as in any load. Then one transaction takes the row out
of quarantine and moves it in the counts of its batches and of their runs, so that all of these
are true at any moment: whoever dies in between has moved nothing, and whoever replays the same
row at the same time moves it or finds it gone. The transaction also looks whether the records
are there: a rebuild that has exchanged the collection meanwhile makes it start again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import groupby

import pymongo
from bson import Binary
from pymongo import WriteConcern
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from marketdata.documents.batches import Batch, Counts
from marketdata.documents.market_data import Record
from marketdata.documents.quarantine import QuarantinedRow, Reason
from marketdata.documents.raw_batches import RawBatch
from marketdata.errors import StateConflict, TerminalError
from marketdata.load import loader
from marketdata.load.raw_rows import read_records
from marketdata.schema.record import MAX_AHEAD, Fault
from marketdata.store import quarantine
from marketdata.store.connection import Store, Update, store_errors
from marketdata.store.quarantine import Selection
from marketdata.store.raw_batches import find_raw
from marketdata.store.server_time import server_clock

MAX_ROWS = 1_000
"""Rows that one call tries at most; each is in one transaction with others of its raw batch."""
MAX_SECONDS = 12.0
"""Time after which a call begins with no further raw batch: API Gateway waits for 29 s."""
MAX_COUNTED = 100_000
"""Remaining rows are counted up to so many."""

_ATTEMPTS = 5
_MOVE_SECONDS = 8.0
"""Time for one transaction, with all attempts at it."""
_NOTES = ("moved", "updated")
_MARK: Update = {"$currentDate": {"replayed_at": True}, "$set": {"plain": False}}
"""Whoever works on batches while this does sees that it has to look again; and from then on
nothing goes by the content of these batches, see `store.known_content`."""

_WHY = {
    "raw_expired": "The raw batch has expired, and the row can't be read again. A new run asks the "
    "source; a file can be uploaded again.",
    "not_loaded": "A batch that has the row is not loaded yet; it reads the row by itself.",
    "run_under_way": "The run that the row belongs to is under way. Try again when it has ended.",
    "no_batch": "No batch counts this row: it is of a page that was received anew in the same run.",
    "unreadable": "The raw batch as a whole can't be read: {}",
    "busy": "Others work on the row or its batch, or died over it. Try again in a minute.",
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
    """Others have documents locked that are to be changed."""


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
    found = quarantine.select(store, selection, after=after, limit=rows)
    for raw_id, places in groupby(found, key=lambda place: str(place["raw_id"])):
        if done.outcomes and time.monotonic() > deadline:
            break
        ids = [place["_id"] for place in places]
        done.outcomes += _replay_raw(store, raw_id, ids)
        done.after = ids[-1]
    if found:
        done.remaining = quarantine.count(store, selection, after=done.after, limit=MAX_COUNTED)
    if not done.remaining:
        done.after = None
    return done


def _replay_raw(store: Store, raw_id: str, ids: Sequence[str]) -> list[RawOutcome]:
    raw = find_raw(store, raw_id)
    if raw is None:
        rows = [row for row in quarantine.of_raw(store, raw_id) if row["_id"] in set(ids)]
        return _left(rows, "raw_expired")
    for _ in range(_ATTEMPTS):
        try:
            return _Attempt(store, raw, ids).outcomes()
        except _Changed:
            continue
        except _Busy:
            break
    rows = [row for row in quarantine.of_raw(store, raw_id) if row["_id"] in set(ids)]
    return _left(rows, "busy")


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


@dataclass(slots=True)
class _Share:
    """What one batch has of the rows."""

    batch: Batch
    loading: list[Record] = field(default_factory=list)
    """The documents of the rows that load."""
    groups: dict[bytes, list[Record]] = field(default_factory=dict)
    """These by identity, where the batch does not have the identity yet."""
    further: dict[bytes, list[Record]] = field(default_factory=dict)
    """Where it has loaded other rows of the identity, which count: these, and those others,
    since they may say again what they had said, after what a row in between says now."""
    counts: Counts = field(default_factory=Counts)
    """What became of them."""


class _Attempt:
    """One attempt at some rows of a raw batch, from reading them to the transaction."""

    def __init__(self, store: Store, raw: RawBatch, ids: Sequence[str]) -> None:
        self._store = store
        self._raw = raw
        # Of the server: what lies too far ahead of it is told by all functions alike.
        self._now = server_clock(store).now()
        self._aside = quarantine.of_raw(store, raw["_id"])
        wanted = set(ids)
        # Those that are gone somebody else has loaded.
        self._rows = [row for row in self._aside if row["_id"] in wanted]
        self._batches = self._counting_batches()
        self._counted_by = {row["_id"]: self._find_counting(row) for row in self._aside}
        self._faults: dict[int, Fault] = {}

    def outcomes(self) -> list[RawOutcome]:
        """Try the rows; tells what became of them."""
        blocked: dict[str, list[QuarantinedRow]] = {}
        rows = []
        for row, reason in zip(self._rows, self._blocked(), strict=True):
            if reason:
                blocked.setdefault(reason, []).append(row)
            else:
                rows.append(row)
        left = [outcome for reason, those in blocked.items() for outcome in _left(those, reason)]
        if not rows:
            return left
        try:
            shares = [self._share(batch, rows) for batch in self._batches.values()]
        except TerminalError as error:
            return left + _left(rows, "unreadable", str(error))
        good = [row for row in rows if row["row_number"] not in self._faults]
        if good:
            self._load([share for share in shares if share.loading], good)
        quarantine.note_reasons(self._store, list(self._reasons(rows)), self._now)
        outcome = _outcome(rows)
        outcome.loaded = len(good)
        outcome.still_quarantined = len(rows) - len(good)
        return [outcome, *left]

    # --- who counts the rows --------------------------------------------------------------

    def _counting_batches(self) -> dict[str, Batch]:
        """The batches that may count a row, in the order in which they were closed.

        A batch that was skipped, as its content was known, counts what the known one did. From
        the moment of its mark on, none of them serves as known content any more, so that no
        further batch takes counts over while they change.
        """
        ids = sorted({batch for row in self._aside for batch in row.get("batches", ())})
        raw_id = self._raw["_id"]
        with store_errors(f"looking up the batches of raw batch {raw_id}"):
            mine = {"$or": [{"_id": {"$in": ids}}, {"skipped": True}], "raw_id": raw_id}
            if self._rows:
                self._store.batches.update_many(mine, _MARK)
            found = list(self._store.batches.find(mine).hint("raw"))
        return {b["_id"]: b for b in sorted(found, key=_closed)}

    def _find_counting(self, row: QuarantinedRow) -> set[str]:
        counting = set(row.get("batches", ())) & self._batches.keys()
        for id_, batch in self._batches.items():
            if batch.get("known_as") in counting and batch["loaded_at"] >= row["first_at"]:
                counting.add(id_)
        return counting

    def _blocked(self) -> Iterator[str | None]:
        """For each row, why it can't be tried now; None if it can."""
        under_way, skipping = self._runs_under_way(), self._may_be_skipped()
        for row in self._rows:
            counting = [self._batches[id_] for id_ in self._counted_by[row["_id"]]]
            if not counting:
                yield "no_batch"
            elif any(batch["state"] != "loaded" for batch in counting) or skipping:
                yield "not_loaded"
            elif any(batch["run_id"] in under_way for batch in counting):
                yield "run_under_way"
            else:
                yield None

    def _runs_under_way(self) -> set[str]:
        ids = sorted({batch["run_id"] for batch in self._batches.values()})
        query = {"_id": {"$in": ids}, "status": "running"}
        with store_errors(f"looking up {len(ids)} runs"):
            return {run["_id"] for run in self._store.runs.find(query, {"_id": 1})}

    def _may_be_skipped(self) -> bool:
        """Whether a batch is being loaded that may take one of these for known content.

        It had looked before they were marked, or it never will.
        """
        places = sorted({b["place"] for b in self._batches.values() if "place" in b})
        query = {"state": "loading", "place": {"$in": places}}
        with store_errors("looking for batches of the same places"):
            found = self._store.batches.find_one(query, {"_id": 1}, hint="state_source")
        return found is not None

    # --- reading --------------------------------------------------------------------------

    def _share(self, batch: Batch, rows: Sequence[QuarantinedRow]) -> _Share:
        """Read the raw batch as one of its batches does."""
        share = _Share(batch)
        mine = self._numbers(batch, rows)
        if not mine:
            return share
        aside = self._numbers(batch, self._aside)
        records = read_records(self._raw, batch, judged_at=self._now)
        faults = {batch["first_row"] + fault.row: fault for fault in records.faults}
        self._faults |= {number: fault for number, fault in faults.items() if number in mine}
        for id_, documents in records.groups.items():
            loading = [document for document in documents if document["row"] in mine]
            if not loading:
                continue
            share.loading += loading
            if all(document["row"] in aside for document in documents):
                share.groups[id_] = loading
            else:
                left_out = aside - mine
                share.further[id_] = [d for d in documents if d["row"] not in left_out]
        return share

    def _numbers(self, batch: Batch, rows: Iterable[QuarantinedRow]) -> set[int]:
        """The numbers of those of the rows that a batch counts."""
        return {r["row_number"] for r in rows if batch["_id"] in self._counted_by[r["_id"]]}

    def _reasons(self, rows: Iterable[QuarantinedRow]) -> Iterator[Reason]:
        for row in rows:
            fault = self._faults.get(row["row_number"])
            if fault is not None:
                message = fault.message.encode("utf-8", "backslashreplace").decode()
                yield {
                    "_id": row["_id"],
                    "reason": fault.code,
                    "field": fault.field,
                    "message": message,
                }

    # --- loading --------------------------------------------------------------------------

    def _load(self, shares: Sequence[_Share], rows: Sequence[QuarantinedRow]) -> None:
        loaded = 0
        for share in shares:
            self._write(share)
            loaded += len(share.loading)
        if loaded != sum(len(self._counted_by[row["_id"]]) for row in rows):
            # A row that is neither a record nor a fault.
            raise StateConflict(
                f"Raw batch {self._raw['_id']} was read in two ways. This is a defect of the "
                "loader; nothing was taken out of quarantine."
            )
        # Who died within a transaction keeps its documents locked, for a minute by default.
        with store_errors(f"taking {len(rows)} rows of raw batch {self._raw['_id']} out"):
            try:
                with pymongo.timeout(_MOVE_SECONDS), self._store.client.start_session() as session:
                    session.with_transaction(
                        lambda session: self._move(session, shares, rows),
                        read_concern=ReadConcern("snapshot"),
                        write_concern=WriteConcern(w="majority"),
                    )
            except PyMongoError as error:
                if error.timeout or error.has_error_label("TransientTransactionError"):
                    raise _Busy from error
                raise

    def _write(self, share: _Share) -> None:
        """Write a batch's records; what another attempt has written is found and counted alike."""
        ids = [*share.groups, *share.further]
        # Before the first is written: from then on, whoever changes one of them asks this batch.
        covers: Update = {
            "$min": {"covers.first": Binary(min(ids))},
            "$max": {"covers.last": Binary(max(ids))},
        }
        if self._lies_ahead(share):
            # Whoever asks it is to judge its rows as they are judged now.
            covers["$max"]["judged_at"] = self._now
        with store_errors(f"noting what batch {share.batch['_id']} covers"):
            self._store.batches.update_one({"_id": share.batch["_id"]}, covers)
        counts = share.counts
        if share.groups:
            loader.write_records(self._store, share.batch, share.groups, counts, remember=True)
        if share.further:
            loader.write_records(self._store, share.batch, share.further, Counts())
        rows = len(share.loading)
        counts.rows_in, counts.quarantined = 0, -rows
        counts.duplicate = rows - len(share.groups)
        counts.check(f"The replay of {rows} rows of batch {share.batch['_id']}")

    def _move(
        self, session: ClientSession, shares: Sequence[_Share], rows: Sequence[QuarantinedRow]
    ) -> None:
        """The transaction: out of quarantine, and over in all counts.

        Raises:
            _Changed: something is not as it was read; nothing is written.
        """
        store = self._store
        if not quarantine.take(store, rows, session):
            raise _Changed
        ids = sorted({document["_id"] for share in shares for document in share.loading})
        there = store.market_data.count_documents({"_id": {"$in": ids}}, session=session)
        if there != len(ids):
            raise _Changed
        for share in shares:
            self._move_counts(session, share)

    def _move_counts(self, session: ClientSession, share: _Share) -> None:
        batch = share.batch
        moved = {n: v for n, v in asdict(share.counts).items() if v}
        change: Update = {
            "$inc": {f"counts.{name}": value for name, value in moved.items()},
            **_MARK,
        }
        if self._lies_ahead(share):
            # Whoever reads these rows again is to judge them as they were judged now.
            change["$max"] = {"judged_at": self._now}
        now = self._store.batches.find_one_and_update(
            {"_id": batch["_id"], "state": "loaded", "raw_id": batch["raw_id"]},
            change,
            projection=dict.fromkeys((*_NOTES, "run_id", "counts"), 1),
            return_document=True,
            session=session,
        )
        if now is None or now["run_id"] != batch["run_id"]:
            raise _Changed
        if _noted(now) != _noted(batch):
            # Which records were rewritten is noted with the batch, by this attempt or by another
            # replay of the same rows. With all the notes at hand they are counted as they are.
            raise _Changed
        Counts.of(now["counts"]).check(f"Batch {batch['_id']}")
        self._move_run(session, batch, moved)

    def _lies_ahead(self, share: _Share) -> bool:
        batch = share.batch
        judged_at: datetime = batch.get("judged_at") or batch["received_at"]
        return any(d["timestamp"] > judged_at + MAX_AHEAD for d in share.loading)

    def _move_run(self, session: ClientSession, batch: Batch, moved: dict[str, int]) -> None:
        """What a closed run says of itself follows; one that is under way has not said it yet."""
        runs = self._store.runs
        run = runs.find_one({"_id": batch["run_id"]}, {"status": 1}, session=session)
        if run is not None and run["status"] == "running":
            raise _Changed
        change = {f"totals.{name}": value for name, value in moved.items()}
        change |= {f"results.$[of].{name}": value for name, value in moved.items()}
        runs.update_one(
            {"_id": batch["run_id"], "results.input": batch["input"]},
            {"$inc": change},
            array_filters=[{"of.input": batch["input"]}],
            session=session,
        )


def _closed(batch: Batch) -> tuple[datetime, str]:
    return batch.get("loaded_at") or batch["received_at"], batch["_id"]


def _noted(batch: Batch) -> list[set[bytes]]:
    return [set(map(bytes, batch.get("moved", ()))), set(map(bytes, batch.get("updated", ())))]
