"""What became of each input of a run, so far or in the end."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.documents.errors import StoredError
from marketdata.documents.questions import Finding
from marketdata.documents.runs import (
    InputState,
    InputStatus,
    Result,
    ResultStatus,
    Run,
    StoredInput,
    Totals,
)
from marketdata.store.batches import reports
from marketdata.store.batches.reports import BatchSums
from marketdata.store.connection import Store

_GOOD_ENDS = (ResultStatus.SUCCESS, ResultStatus.SKIPPED, ResultStatus.WAITING)


def summarise_inputs(
    store: Store, documents: Sequence[Run], *, closing: bool = False
) -> dict[str, list[Result]]:
    """What became of each input of some runs so far, by run id.

    Args:
        store: the database.
        documents: the runs.
        closing: nothing more will happen: what is unfinished counts as failed.
    """
    ids = [d["_id"] for d in documents]
    sums, findings = reports.summarise(store, ids), reports.findings(store, ids)
    return {
        d["_id"]: [
            _summarise_input(
                name,
                note,
                sums.get((d["_id"], name), reports.NO_BATCHES),
                findings.get((d["_id"], name), []),
                closing=closing,
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


def _summarise_input(
    name: str, note: StoredInput, sums: BatchSums, findings: list[Finding], *, closing: bool
) -> Result:
    known = InputState.of(note)
    batches, loaded = sums["batches"], sums["loaded"]
    status = _status(known, sums, closing=closing)
    reason = known.reason
    if status == ResultStatus.SKIPPED and known.error is None and reason is None:
        reason = "Nothing had changed: all of it had been loaded before, with the same content."
    throttling = known.throttling
    started, ended = known.started_at, sums["last"] or known.extracted_at
    seconds = (ended - started).total_seconds() if started and ended else None
    return {
        "source": known.source,
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
        "pages": known.pages.pages if known.pages else 0,
        "unchanged_pages": known.pages.unchanged if known.pages else 0,
        "throttled": throttling.get("events", 0) if throttling else 0,
        "throttling": throttling or None,
        "resume_from": known.reclaimed,
        "findings": findings,
        # The two times may be of functions whose clocks differ.
        "seconds": None if seconds is None else round(max(0.0, seconds), 3),
        "reason": reason,
        "error": known.error or _error(name, known, sums, status, closing=closing),
    }


def _error(
    name: str, known: InputState, sums: BatchSums, status: ResultStatus, *, closing: bool
) -> StoredError | None:
    """Why an input did not come to a good end, where its extraction has met no error."""
    if status == ResultStatus.FAILED and _all_quarantined(known, sums):
        return {
            "code": "all_quarantined",
            "message": f"Every row was set aside, {sums['rows_in']} of {sums['rows_in']}: "
            "GET /quarantine tells why of each. If the format has changed, POST "
            "/quarantine/replay loads them once the program or the mapping knows the new one.",
        }
    if not closing or status in _GOOD_ENDS:
        return None
    if known.status.complete and _told(known) and sums["batches"] == sums["loaded"]:
        return {"code": "incomplete", "message": " ".join(known.warnings)}
    if known.status.complete:
        batches = sums["batches"]
        return {
            "code": "batches_failed",
            "message": f"{batches - sums['loaded']} of {batches} batches were not loaded.",
        }
    if status == ResultStatus.CANCELLED:
        return {"code": "cancelled", "message": known.reason or f"{name} was cancelled."}
    return {
        "code": "not_extracted",
        "message": f"The extraction of {name} did not come to its end.",
    }


def _told(known: InputState) -> bool:
    """Whether what a source answered differs from what it was asked for, which the run tells."""
    return known.object is None and bool(known.warnings)


def _all_quarantined(known: InputState, sums: BatchSums) -> bool:
    """Whether there were rows, and not one that could be loaded: then it is for somebody to see.

    Also if they are known; but not of the rest that an earlier run has left, which may be short.
    """
    rows = sums["rows_in"]
    return known.resumes is None and rows > 0 and sums["quarantined"] == rows


def _status(  # noqa: PLR0911 - one for each end
    known: InputState, sums: BatchSums, *, closing: bool
) -> ResultStatus:
    extraction, loaded = known.status, sums["loaded"]
    if extraction.complete and sums["batches"] == loaded:
        return _status_of_complete(known, sums)
    if extraction == InputStatus.SKIPPED and known.error is not None:
        return ResultStatus.SKIPPED
    if extraction == InputStatus.WAITING:
        return ResultStatus.WAITING
    if extraction == InputStatus.THROTTLED:
        return ResultStatus.THROTTLED
    if extraction == InputStatus.CANCELLED and (closing or sums["batches"] == loaded):
        return ResultStatus.CANCELLED
    if not closing and extraction != InputStatus.FAILED:
        return ResultStatus.RUNNING
    return ResultStatus.PARTIAL_SUCCESS if loaded else ResultStatus.FAILED


def _status_of_complete(known: InputState, sums: BatchSums) -> ResultStatus:
    """What became of an input whose extraction came to its end, and whose batches are loaded."""
    if _all_quarantined(known, sums):
        return ResultStatus.FAILED
    if _told(known) and known.error is None:
        return ResultStatus.PARTIAL_SUCCESS
    all_known = sums["batches"] > 0 and sums["skipped"] == sums["batches"]
    if known.status == InputStatus.SKIPPED or (all_known and known.error is None):
        return ResultStatus.SKIPPED
    return ResultStatus.SUCCESS
