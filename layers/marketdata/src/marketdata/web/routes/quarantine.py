"""`/quarantine`: what was set aside, and why; and trying it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import blake2b
from typing import Annotated

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Body, Query

from marketdata import clock
from marketdata.documents.quarantine import QuarantinedRow
from marketdata.errors import InvalidInput
from marketdata.store import quarantine, run_queries
from marketdata.web import cursor as cursors
from marketdata.web import patterns
from marketdata.web.models.common import Part
from marketdata.web.models.quarantine import (
    QuarantineList,
    Replayed,
    ReplayedBatch,
    ReplayRequest,
)
from marketdata.web.parameters import (
    DEFAULT_LIMIT,
    CursorText,
    Limit,
    RunId,
    Source,
    check_same,
    read_text,
)
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()
control_router = new_router()
"""What changes something, for the function `control`."""

_EVERYTHING = ReplayRequest()
_SHOWN_CHARACTERS = 4_000


@router.get(
    "/quarantine",
    summary="Rows that were set aside",
    description="Rows that could not be loaded, each with the reason. The raw batch has the "
    "whole rows; nothing is ever dropped. A row that several runs received is "
    "listed once, and `run_id` finds it for each of them: it shows what a run's "
    "loaded batches count as quarantined.",
    responses=responses("A page; an empty one if nothing matches.", 400, 404),
    tags=["operations"],
    operation_id="listQuarantine",
)
def list_quarantine(
    request: Request,
    run_id: RunId = None,
    source: Source = None,
    reason: Annotated[
        str | None,
        Query(
            pattern=patterns.REASON,
            description="Only with this reason.",
            examples=["greater_than"],
        ),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
) -> QuarantineList:
    """One page of rows."""
    asked = {"run_id": run_id, "source": read_text("source", source), "reason": reason}
    after = None
    if cursor is not None:
        *kept, after = cursors.decode("quarantine", cursor, len(asked) + 1)
        if not (all(cursors.text_or_none(part) for part in kept) and isinstance(after, str)):
            cursors.refuse()
        for name, value in zip(asked, kept, strict=True):
            check_same(name, asked[name], value)
            asked[name] = read_text(name, value)
    store = services(request).store()
    found = quarantine.find_quarantined(store, limit=limit + 1, after=after, **asked)
    shown, more = found[:limit], len(found) > limit
    next_cursor = cursors.encode("quarantine", *asked.values(), shown[-1]["_id"]) if more else None
    return QuarantineList.model_validate(
        {
            "data": [_row(document) for document in shown],
            "pagination": {"limit": limit, "next_cursor": next_cursor, "has_more": more},
            "run_id": run_queries.last_closed_run_id(store),
        }
    )


def _row(document: QuarantinedRow) -> Part:
    return {
        "id": document["_id"],
        "source": document["source"],
        "run_id": document["run_id"],
        "batch": document["batch"],
        "raw_id": document["raw_id"],
        "row_number": document["row_number"],
        "reason": document["reason"],
        "field": document["field"],
        "message": document["message"],
        "row": document["row"][:_SHOWN_CHARACTERS],
        "truncated": len(document["row"]) > _SHOWN_CHARACTERS,
        "received_at": clock.iso(document["received_at"]),
        "first_at": clock.iso(document["first_at"]),
        "last_at": clock.iso(document["last_at"]),
    }


@control_router.post(
    "/quarantine/replay",
    summary="Try rows again that were set aside",
    description="Reads rows again from their raw batches, with the code of today and judged at "
    "the present time, and loads those that are records now: they leave quarantine. A run of its "
    "own loads them, and its batches say what they resolve. The counts of the runs that received "
    "the rows stay; `resolved` says there how many are loaded by now. One call goes through "
    "1,000 rows at most and ends within seconds; repeat it with `next_cursor` while `remaining` "
    "is above zero. Doing it twice, or twice at once, counts nothing twice.",
    responses=responses("What this call did.", 400, 401, 404),
    tags=["control"],
    operation_id="replayQuarantine",
    security=[{"bearer": []}],
)
def replay_quarantine(
    request: Request,
    body: Annotated[ReplayRequest, Body(description="Optional.")] = _EVERYTHING,
) -> Replayed:
    """Go through some rows of a selection."""
    # Reading rows is for this route alone, and costs the start of the function something.
    from marketdata.runs.replaying import replay  # noqa: PLC0415
    from marketdata.store.quarantine import Selection  # noqa: PLC0415

    selection = Selection(
        body.source, body.reason, body.run_id, None if body.ids is None else tuple(body.ids)
    )
    asked = blake2b(json.dumps(asdict(selection)).encode(), digest_size=8).hexdigest()
    after = None
    if body.cursor is not None:
        kept, after = cursors.decode("replay", body.cursor, 2)
        if not isinstance(after, str):
            cursors.refuse()
        if kept != asked:
            message = "is of another selection; give it with the very same one, or leave it out"
            raise InvalidInput(
                f"cursor: {message}", faults=[{"in": "body", "name": "cursor", "message": message}]
            )
    done = replay(services(request).store(), selection, after=after)
    return Replayed(
        run_id=done.run_id,
        replayed=done.total("replayed"),
        loaded=done.total("loaded"),
        still_quarantined=done.total("still_quarantined"),
        remaining=done.remaining,
        next_cursor=None if done.after is None else cursors.encode("replay", asked, done.after),
        by_batch=[ReplayedBatch(**asdict(outcome)) for outcome in done.outcomes],
    )
