"""`/quarantine`: what was set aside, and why."""

from __future__ import annotations

from typing import Annotated

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Query

from marketdata import clock
from marketdata.store import queries
from marketdata.store.connection import Document
from marketdata.web import cursor as cursors
from marketdata.web import patterns
from marketdata.web.models.quarantine import QuarantineList
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

_SHOWN_CHARACTERS = 4_000


@router.get(
    "/quarantine",
    summary="Rows that were set aside",
    description="Rows that could not be loaded, each with the reason. The raw batch has them "
    "whole; nothing is ever dropped.",
    responses=responses("A page; with nothing that fits, an empty one.", 400, 404),
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
    found = queries.find_quarantined(store, limit=limit + 1, after=after, **asked)
    shown, more = found[:limit], len(found) > limit
    next_cursor = cursors.encode("quarantine", *asked.values(), shown[-1]["_id"]) if more else None
    return QuarantineList.model_validate(
        {
            "data": [_row(document) for document in shown],
            "pagination": {"limit": limit, "next_cursor": next_cursor, "has_more": more},
            "run_id": queries.last_closed_run_id(store),
        }
    )


def _row(document: Document) -> Document:
    return {
        "id": document["_id"],
        **{
            name: document[name]
            for name in ("source", "run_id", "raw_id", "row_number", "reason", "field", "message")
        },
        "row": document["row"][:_SHOWN_CHARACTERS],
        "truncated": len(document["row"]) > _SHOWN_CHARACTERS,
        **{name: clock.iso(document[name]) for name in ("received_at", "first_at", "last_at")},
    }
