"""What became of each input of a run, so far or in the end."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.store.batches import reports
from marketdata.store.batches.batch import COUNTS
from marketdata.store.connection import Document, Store

FAILED, PARTIAL, SUCCESS, RUNNING = "failed", "partial_success", "success", "running"
SKIPPED, THROTTLED = "skipped", "throttled"
"""Of inputs only: nothing was new, or the source was not to be asked; the source's quota was used
up for longer than a run waits."""
DONE = ("extracted", SKIPPED)
"""An extraction that came to its end."""


def summarise_inputs(
    store: Store, documents: Sequence[Document], *, closing: bool = False
) -> dict[str, list[Document]]:
    """What became of each input of some runs so far, by run id.

    Args:
        store: the database.
        documents: the runs.
        closing: nothing more will happen: what is unfinished counts as failed.
    """
    sums = reports.summarise(store, [d["_id"] for d in documents])
    return {
        d["_id"]: [
            _summarise_input(name, note, sums.get((d["_id"], name)), closing=closing)
            for name, note in d["inputs"].items()
        ]
        for d in documents
    }


def _summarise_input(
    name: str, note: Document, sums: Document | None, *, closing: bool
) -> Document:
    sums = sums or {}
    batches, loaded = sums.get("batches", 0), sums.get("loaded", 0)
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
    started, ended = note.get("started_at"), sums.get("last") or note.get("extracted_at")
    seconds = (ended - started).total_seconds() if started and ended else None
    return {
        "source": note["source"],
        "input": name,
        "status": status,
        "extracted": sums.get("rows", 0),
        "rows_in": sums.get("rows_in", 0),
        **{count: sums.get(count, 0) for count in COUNTS},
        "batches": batches,
        "failed_batches": batches - loaded if closing else sums.get("failed", 0),
        "parked_batches": sums.get("parked", 0),
        "skipped_batches": sums.get("skipped", 0),
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


def _all_set_aside(note: Document, sums: Document) -> bool:
    """Whether there were rows, and not one that could be loaded: then it is for somebody to see.

    Also if they are known; but not of the rest that an earlier run has left, which may be short.
    """
    rows: int = sums.get("rows_in", 0)
    return "resumes" not in note and rows > 0 and sums["quarantined"] == rows


def _input_status(note: Document, sums: Document, *, closing: bool) -> str:
    batches, loaded = sums.get("batches", 0), sums.get("loaded", 0)
    told, refused = note["status"], note.get("error") is not None
    if told in DONE and batches == loaded and _all_set_aside(note, sums):
        return FAILED
    if told == SKIPPED and (refused or batches == loaded):
        return SKIPPED
    if told == "extracted" and batches == loaded:
        known = batches > 0 and sums.get("skipped") == batches
        return SKIPPED if known and not refused else SUCCESS
    if told == THROTTLED:
        return THROTTLED
    if not closing and told != FAILED:
        return RUNNING
    return PARTIAL if loaded else FAILED
