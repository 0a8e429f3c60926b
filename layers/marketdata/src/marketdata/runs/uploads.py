"""The way of an uploaded object, from its event to its batches.

1. **Event.** S3 tells of a new object version. `triggers.parse` reads the event, and derives the
   run's id from the version: however often S3 tells of it, it is one run. The hourly rule, and a
   request for uploads, list the bucket instead, and find what no event has told of.
2. **Version.** An event may write the key percent-encoded. S3 says which reading is the true one.
3. **Ours?** It is if it is in the bucket for uploads, below `incoming/`, and ends with `.csv` or
   `.csv.gz`. No other object starts anything; it is noted, with the reason (`ignored_objects`).
4. **Lock.** It becomes an input of a run. No two running runs have the same one (`runs.holds`).
5. **Claim.** The run claims it (`store.objects`) unless another run has. A claim lasts: later runs
   only *reclaim* what an ended run did not bring to its end.
6. **Lease.** Its run gets the lease, and reclaims what earlier runs have left (`resuming.acquire`).
7. **Skip.** An empty object is skipped, and one whose key has a newer version with content by now:
   that one is loaded. Neither is a failure, nor a success.
8. **Cut.** `extract_csv` reads it once, and writes batches by the protocol of extraction
   (`extraction.protocol`). They are loaded only when all of the file was seen.

A crash between 4 and 5 leaves a version that is locked and not claimed. The end of its run unlocks
it, and the next run that lists the bucket finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import nsmallest

from marketdata.documents.questions import Question
from marketdata.documents.runs import InputChanges, InputState, InputStatus
from marketdata.errors import (
    MarketDataError,
    SettingsError,
    StateConflict,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    TerminalError,
    TransientError,
)
from marketdata.objects import (
    CSV,
    CurrentVersion,
    Ignored,
    ObjectReader,
    ObjectVersion,
    UploadsBucket,
    is_upload,
    why_ignored,
)
from marketdata.runs import starting
from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.runs.extraction.protocol import Extraction, Overtaken
from marketdata.runs.heartbeat import require_running
from marketdata.runs.triggers import Trigger
from marketdata.settings import CsvSettings
from marketdata.store import asking, ignored_objects, objects, run_inputs, runs
from marketdata.store.batches import batch
from marketdata.store.connection import Store
from marketdata.store.objects import Claimed, NotClaimed
from marketdata.store.run_inputs import Addition
from marketdata.store.server_time import server_clock

MAX_UPLOADS = 200
"""Object versions that one run takes at most: its document and its execution have limits."""

MOST_PAGES = 25
"""Parts of the bucket's list, of a thousand versions each, that one opening looks through. A larger
bucket is looked through by several, one after the other; an event tells of each upload sooner."""


# --- an event tells of an object version ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """The run of the event has the object version."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The run of the event has nothing to do."""

    run_id: str
    """The run that has the object version; the event's own if none is to have it."""


def take_uploaded(
    store: Store,
    trigger: Trigger,
    told: ObjectVersion,
    execution: str,
    bucket: UploadsBucket | None,
    *,
    most_resumptions: int,
) -> Taken | NotTaken:
    """Create the run of an object version that an event tells of, and have it claim the version.

    Doing it again, for the same execution, ends in the same.

    Args:
        store: the database.
        trigger: what starts the run: the event.
        told: the object version as the event tells of it.
        execution: the execution that the event has started.
        bucket: the bucket for uploads, if there is one.
        most_resumptions: how often a batch or an object that failed is tried by later runs.

    Raises:
        StoreRefused: S3 does not let the object be looked at.
        TransientError: S3 or MongoDB did not answer.
    """
    run_id = trigger.run_id
    version = _locate(told, bucket)
    if version is None:
        _note_ignored(store, told, bucket)
        return NotTaken(run_id)
    owner = objects.owner(store, version.id)
    if owner is not None and owner != run_id:
        return NotTaken(owner)
    inputs = {version.id: _untouched(version)}
    created = starting.create_run(store, trigger, inputs, most_resumptions=most_resumptions)
    if created.run_id != run_id:
        return NotTaken(created.run_id)
    if not runs.adopt(store, run_id, execution):
        return NotTaken(run_id)
    claim = objects.claim(store, version, run_id)
    if isinstance(claim, NotClaimed):
        # The run that had it locked ended between the look above and the creation of this one.
        runs.discard(store, run_id)
        return NotTaken(claim.owner or run_id)
    return Taken()


def _locate(told: ObjectVersion, bucket: UploadsBucket | None) -> ObjectVersion | None:
    """The object version that an event tells of, under its true key; None if it is no upload."""
    if bucket is None or told.bucket != bucket.bucket:
        return None
    version = bucket.locate(told)
    return version if is_upload(version.key) else None


def _note_ignored(store: Store, told: ObjectVersion, bucket: UploadsBucket | None) -> None:
    """Leave a trace of an object that no run takes because of its key."""
    if bucket is not None and told.bucket == bucket.bucket and why_ignored(told.key):
        ignored_objects.note(store, [Ignored(told.bucket, told.key)])


def _untouched(version: ObjectVersion, earlier: str | None = None) -> InputState:
    """An object version as an input that waits; `earlier` is the ended run that it resumes."""
    return InputState(CSV, InputStatus.PENDING, object=version.document(), resumes=earlier)


# --- a run looks for object versions itself -------------------------------------------------------


def add_unloaded(store: Store, run_id: str, bucket: UploadsBucket) -> None:
    """Make uploads that are not loaded yet inputs of a run, and have it claim them.

    Those that ended runs have left come first, then the oldest ones that no run has claimed. What
    another running run has locked is left to that run. If the bucket can't be listed, the run says
    so and goes on without: a later one finds them.

    Raises:
        StateConflict: the run has ended meanwhile.
        TransientError: MongoDB did not answer.
    """
    left = objects.left(store, MAX_UPLOADS)
    for version, earlier in left:
        _add(store, run_id, version, earlier)
    try:
        unclaimed = nsmallest(
            MAX_UPLOADS - len(left),
            _unclaimed(store, bucket),
            key=lambda version: (version.last_modified, version.id),
        )
    except (StoreUnavailable, StoreFull, StoreRefused):
        raise
    except MarketDataError as error:
        unlisted: InputChanges = {
            "source": CSV,
            "status": InputStatus.FAILED,
            "error": batch.describe(error),
        }
        run_inputs.set_input(store, run_id, run_inputs.LISTING, unlisted)
        return
    for version in unclaimed:
        _add(store, run_id, version)


def _unclaimed(store: Store, bucket: UploadsBucket) -> Iterator[ObjectVersion]:
    """Uploads that no run has claimed, in a part of the bucket; the next call goes on behind it.

    It goes round: behind the end of the list comes its beginning. What no run takes is noted.
    """
    begun = marker = ignored_objects.listing_marker(store)
    ignored_objects.note(store, _elsewhere(bucket))
    passed_end = False
    for _ in range(MOST_PAGES):
        listed = bucket.listed(marker)
        claimed = objects.taken(store, [version.id for version in listed.versions])
        yield from (version for version in listed.versions if version.id not in claimed)
        ignored_objects.note(store, listed.ignored)
        marker = listed.marker
        if marker is None:
            if begun is None or passed_end:
                break
            passed_end = True
        elif passed_end and begun is not None and marker["key"] >= begun["key"]:
            # All of it was looked through, in two parts.
            break
    ignored_objects.set_listing_marker(store, marker)


def _elsewhere(bucket: UploadsBucket) -> list[Ignored]:
    """What is beside the uploads; nothing without the permission, or an answer, to list it.

    It stays unnoticed then, and uploads are found.
    """
    try:
        return bucket.elsewhere()
    except (SettingsError, TransientError):
        return []


def _add(store: Store, run_id: str, version: ObjectVersion, earlier: str | None = None) -> None:
    """Make an object version an input of a run and have it claim it, unless another run is at it.

    Args:
        store: the database.
        run_id: the run.
        version: the object version.
        earlier: the ended run that it is reclaimed from; None if no run has claimed it.
    """
    state = _untouched(version, earlier)
    added = run_inputs.add(store, run_id, version.id, state.document())
    if added is Addition.LOCKED:
        return
    if earlier is None:
        claim = objects.claim(store, version, run_id)
    else:
        claim = objects.reclaim(store, version.id, earlier, run_id)
    if added is Addition.ADDED and not isinstance(claim, Claimed):
        run_inputs.remove(store, run_id, version.id)


def reclaim_resumed(store: Store, run_id: str) -> None:
    """Have a run that resumes another one reclaim the object versions that it has as inputs.

    An object version that a third run has reclaimed meanwhile is no input any more.
    """
    for object_id, stored in runs.get(store, run_id)["inputs"].items():
        state = InputState.of(stored)
        if state.object is None or state.resumes is None or state.lease is not None:
            continue
        claim = objects.reclaim(store, object_id, state.resumes, run_id)
        if isinstance(claim, NotClaimed):
            run_inputs.remove(store, run_id, object_id)


# --- an object version is cut into batches --------------------------------------------------------


def extract_csv(  # noqa: PLR0911 - one for each end
    store: Store,
    run_id: str,
    input_id: str,
    reader: ObjectReader,
    *,
    settings: CsvSettings,
    remaining_seconds: Callable[[], float],
    current: CurrentVersion | None = None,
) -> Extracted:
    """Cut an object version into batches, from where an earlier call had got to.

    Nothing is loaded before the whole file was seen, so a file that is refused in its middle
    leaves no half of it behind. What an earlier run has cut is no exception: if that run had not
    seen the whole file, the rest is cut first, and then all of it is loaded.

    Of two calls at once the one that notes its batches first goes on; the other begins anew from
    there. They may cut differently: settings change with a deployment.

    Args:
        store: the database.
        run_id: the run.
        input_id: the object version's id; the run's state of this input says which it is.
        reader: reads it.
        settings: how large batches are, and how large a packed file may be.
        remaining_seconds: what is left of this call's time.
        current: looks up the version that counts for a key; without it, none is superseded.

    Raises:
        StateConflict: the run has ended, or has lost the object to another one.
        TransientError: S3 or the database is out of reach; the state machine retries.
    """
    # `open_run` knows this module, and must not load what matches columns.
    from marketdata.runs.extraction.files import (  # noqa: PLC0415
        FileAsks,
        FileExtraction,
        NothingToLoad,
    )

    require_running(store, run_id, input_id)
    state = InputState.of(runs.get(store, run_id)["inputs"][input_id])
    extraction = Extraction(store, run_id, input_id)
    if state.status.ended:
        return _ended(extraction, state)
    server = server_clock(store)
    if state.started_at is None:
        extraction.begin(server.now())
    file = FileExtraction(extraction, state, settings, asking.answers_of(store, input_id))
    try:
        _require_newest(state, current)
        if not file.cut(reader, remaining_seconds):
            return Extracted(ExtractionState.AGAIN, [])
        file.end(server.now())
    except Overtaken:
        require_running(store, run_id, input_id)
        return Extracted(ExtractionState.AGAIN, [])
    except FileAsks as asks:
        return _wait(extraction, server.now(), asks.questions, asks.profile)
    except NothingToLoad as reason:
        return _skip(extraction, server.now(), str(reason))
    except StateConflict:
        raise
    except (StoreRefused, TransientError) as error:
        # Neither is of the file. It is noted in case that nobody else tells of it.
        extraction.note(error=batch.describe(error))
        raise
    except TerminalError as error:
        return _refuse(extraction, error)
    return Extracted(ExtractionState.EXTRACTED, file.numbers())


def _require_newest(state: InputState, current: CurrentVersion | None) -> None:
    """Load no version whose key has a newer one, unless something of it was cut already.

    Raises:
        NothingToLoad: names the newer one.
    """
    from marketdata.runs.extraction.files import NothingToLoad  # noqa: PLC0415 - as above

    if current is None or state.object is None or state.layout is not None:
        return
    version = ObjectVersion.of(state.object)
    newest = current(version)
    if newest not in (None, version.version_id):
        raise NothingToLoad(
            f"{version.place} was not loaded, as a newer version of it is there: {newest}. If both "
            "are wanted, copy this one to a key of its own."
        )


def _wait(
    extraction: Extraction, at: datetime, questions: list[Question], profile: str
) -> Extracted:
    """End the extraction of an object version that asks something: it waits, whole.

    The object says so first. If this call dies in between, the end of the run notes the rest.
    """
    object_id = extraction.input_id
    if not asking.wait(extraction.store, object_id, extraction.run_id, questions, profile):
        require_running(extraction.store, extraction.run_id, object_id)
        return Extracted(ExtractionState.AGAIN, [])
    waits = asking.waits(extraction.store, object_id)
    status = InputStatus.WAITING if waits else InputStatus.SKIPPED
    reason = asking.why(object_id) if waits else asking.SUPERSEDED
    if extraction.note(status=status, reason=reason, error=None, extracted_at=at):
        state = ExtractionState.WAITING if waits else ExtractionState.SKIPPED
        return Extracted(state, [])
    return Extracted(ExtractionState.AGAIN, [])


def _skip(extraction: Extraction, at: datetime, reason: str) -> Extracted:
    """End the extraction of an object version that has nothing to load."""
    if extraction.note(status=InputStatus.SKIPPED, reason=reason, error=None, extracted_at=at):
        return Extracted(ExtractionState.SKIPPED, [])
    # Another call has ended it before, which the next one tells.
    return Extracted(ExtractionState.AGAIN, [])


def _refuse(extraction: Extraction, error: TerminalError) -> Extracted:
    if extraction.refuse(batch.describe(error)):
        return Extracted(ExtractionState.FAILED, [])
    # As above.
    return Extracted(ExtractionState.AGAIN, [])


def _ended(extraction: Extraction, state: InputState) -> Extracted:
    """What the end of an extraction comes to that an earlier call has noted."""
    if state.status is InputStatus.FAILED:
        # Once more, as the call that noted it may have died before it did so.
        extraction.drop_from(0)
        return Extracted(ExtractionState.FAILED, [])
    return Extracted(ExtractionState(state.status), extraction.numbers(state.batches))
