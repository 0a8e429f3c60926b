"""What became of each input of a run, so far or in the end."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.documents.runs import Result, Run, StoredInput, Totals
from marketdata.store.batches import reports
from marketdata.store.batches.reports import BatchSums
from marketdata.store.connection import Store

FAILED, PARTIAL, SUCCESS, RUNNING = "failed", "partial_success", "success", "running"
SKIPPED, THROTTLED = "skipped", "throttled"
"""Of inputs only: nothing was new, or the source was not to be asked; the source's quota was used
up for longer than a run waits."""
DONE = ("extracted", SKIPPED)
"""An extraction that came to its end."""


def summarise_inputs(
    store: Store, documents: Sequence[Run], *, closing: bool = False
) -> dict[str, list[Result]]:
    """What became of each input of some runs so far, by run id.

    Args:
        store: the database.
        documents: the runs.
        closing: nothing more will happen: what is unfinished counts as failed.
    """
    sums = reports.summarise(store, [d["_id"] for d in documents])
    return {
        d["_id"]: [
            _summarise_input(
                name, note, sums.get((d["_id"], name), reports.NO_BATCHES), closing=closing
            )
            for name, note in d["inputs"].items()
        ]
        for d in documents
    }


def total(inputs: Sequence[Result]) -> Totals:
    """The sums over a run's inputs."""
    return {
        "extracted": sum(result["extracted"] for result in inputs),
        "rows_in": sum(result["rows_in"] for result in inputs),
        "inserted": sum(result["inserted"] for result in inputs),
        "updated": sum(result["updated"] for result in inputs),
        "unchanged": sum(result["unchanged"] for result in inputs),
        "duplicate": sum(result["duplicate"] for result in inputs),
        "quarantined": sum(result["quarantined"] for result in inputs),
    }


def _summarise_input(name: str, note: StoredInput, sums: BatchSums, *, closing: bool) -> Result:
    batches, loaded = sums["batches"], sums["loaded"]
    error = note.get("error")
    status = _input_status(note, sums, closing=closing)
    reason = note.get("reason")
    if status == SKIPPED and error is None and reason is None:
        reason = "Nothing had changed: all of it had been loaded before, with the same content."
    if error is None and status == FAILED and _all_set_aside(note, sums):
        error = {
            "code": "all_quarantined",
            "message": f"Every row was set aside, {sums['rows_in']} of {sums['rows_in']}: "
            "GET /quarantine tells why of each. If the format has changed, POST "
            "/quarantine/replay loads them once the program or the mapping knows the new one.",
        }
    elif error is None and closing and status not in (SUCCESS, SKIPPED):
        error = (
            {
                "code": "batches_failed",
                "message": f"{batches - loaded} of {batches} batches were not loaded.",
            }
            if note["status"] in DONE
            else {
                "code": "not_extracted",
                "message": f"The extraction of {name} did not come to its end.",
            }
        )
    throttling = note.get("throttling") or {}
    started, ended = note.get("started_at"), sums["last"] or note.get("extracted_at")
    seconds = (ended - started).total_seconds() if started and ended else None
    return {
        "source": note["source"],
        "input": name,
        "status": status,
        "extracted": sums["rows"],
        "rows_in": sums["rows_in"],
        "inserted": sums["inserted"],
        "updated": sums["updated"],
        "unchanged": sums["unchanged"],
        "duplicate": sums["duplicate"],
        "quarantined": sums["quarantined"],
        "batches": batches,
        "failed_batches": batches - loaded if closing else sums["failed"],
        "parked_batches": sums["parked"],
        "skipped_batches": sums["skipped"],
        "pages": note.get("pages", 0),
        "unchanged_pages": note.get("unchanged_pages", 0),
        "throttled": throttling.get("events", 0),
        "throttling": throttling or None,
        "resume_from": note.get("resume_from", []),
        # The two times may be of functions whose clocks differ.
        "seconds": None if seconds is None else round(max(0.0, seconds), 3),
        "reason": reason,
        "error": error,
    }


def _all_set_aside(note: StoredInput, sums: BatchSums) -> bool:
    """Whether there were rows, and not one that could be loaded: then it is for somebody to see.

    Also if they are known; but not of the rest that an earlier run has left, which may be short.
    """
    rows = sums["rows_in"]
    return "resumes" not in note and rows > 0 and sums["quarantined"] == rows


def _input_status(note: StoredInput, sums: BatchSums, *, closing: bool) -> str:
    batches, loaded = sums["batches"], sums["loaded"]
    told, refused = note["status"], note.get("error") is not None
    if told in DONE and batches == loaded and _all_set_aside(note, sums):
        return FAILED
    if told == SKIPPED and (refused or batches == loaded):
        return SKIPPED
    if told == "extracted" and batches == loaded:
        known = batches > 0 and sums["skipped"] == batches
        return SKIPPED if known and not refused else SUCCESS
    if told == THROTTLED:
        return THROTTLED
    if not closing and told != FAILED:
        return RUNNING
    return PARTIAL if loaded else FAILED
