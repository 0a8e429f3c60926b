"""`/data`: the records."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, Literal

from aws_lambda_powertools.event_handler import Request
from aws_lambda_powertools.event_handler.openapi.params import Path, Query

from marketdata import clock
from marketdata.documents.market_data import CurrentRevision, Record, Revision
from marketdata.errors import InvalidInput, NotFound
from marketdata.schema.identity import ID_BYTES
from marketdata.schema.record import VALUE_FIELDS
from marketdata.store import record_queries, run_queries
from marketdata.store.record_queries import Position, RecordQuery
from marketdata.web import cursor as cursors
from marketdata.web.models.common import Part
from marketdata.web.models.data import RECORD_ID, History, OneRecord, Records
from marketdata.web.parameters import (
    DEFAULT_LIMIT,
    MAX_MS,
    CursorText,
    End,
    Limit,
    Source,
    Start,
    Symbols,
    check_same,
    malformed,
    read_symbols,
    read_text,
    read_time,
)
from marketdata.web.responses import responses
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request says of the list that it wants; None, or no symbols, is not said."""

    symbols: tuple[str, ...]
    source: str | None
    start: datetime | None
    end: datetime | None
    sort: str | None
    descending: bool | None

    def query(self) -> RecordQuery:
        """The query, with what is not said by default: newest first, else ascending."""
        sort = self.sort or "timestamp"
        return RecordQuery(
            symbols=self.symbols,
            source=self.source,
            start=self.start,
            end=self.end,
            sort=sort,
            descending=sort == "timestamp" if self.descending is None else self.descending,
        )


_KIND = "data"
_CURSOR_PARTS = 8
MAX_PAGE = 1_000
_TEXT_FIELDS = {"symbol", "source", "name", "asset_id"}


@router.get(
    "/data",
    summary="Records",
    description="Records, the newest first unless you ask for another order. Continue with "
    "`cursor`: a walk returns every record exactly once, also while new ones "
    "arrive. `page` counts from the start each time, and is for looking around.",
    responses=responses("A page; an empty one if nothing matches.", 400, 404),
    tags=["data"],
    operation_id="listData",
)
def list_data(
    request: Request,
    symbol: Symbols = None,
    source: Source = None,
    start: Start = None,
    end: End = None,
    sort_by_direction: Annotated[
        str | None,
        Query(
            alias="sortBy",
            description="Field and direction, such as `price_usd:desc`. Without a direction, "
            "`sort_dir` counts; without either, time descends and everything else "
            "ascends. Null is the lowest value.",
            json_schema_extra={
                "pattern": f"^(?:{'|'.join(record_queries.SORTABLE)})(?::(?:asc|desc))?$"
            },
            examples=["price_usd:desc"],
        ),
    ] = None,
    sort_by: Annotated[
        Literal[record_queries.SORTABLE] | None,  # type: ignore[valid-type]
        Query(description="The field, as a parameter of its own. `sortBy` takes precedence."),
    ] = None,
    sort_dir: Annotated[
        Literal["asc", "desc"] | None,
        Query(
            description="The direction, as a parameter of its own. A direction in `sortBy` "
            "takes precedence."
        ),
    ] = None,
    page: Annotated[
        int | None,
        Query(
            ge=1,
            le=MAX_PAGE,
            description="Number of a page of `limit` records, from 1. To read many pages, use "
            "`cursor`.",
        ),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
) -> Records:
    """One page of records."""
    sort, descending = _order(sort_by_direction, sort_by, sort_dir)
    asked = _Asked(
        symbols=read_symbols(symbol),
        source=read_text("source", source),
        start=read_time("start", start),
        end=read_time("end", end, end=True),
        sort=sort,
        descending=descending,
    )
    query, after = (asked.query(), None) if cursor is None else _resume(cursor, asked)
    if cursor is not None and page is not None:
        malformed("page", "can't be given with cursor")
    store = services(request).store()
    skip = ((page or 1) - 1) * limit
    try:
        found = record_queries.find_records(store, query, limit=limit + 1, after=after, skip=skip)
    except InvalidInput as error:
        malformed("sortBy", error.message)
    shown = found[:limit]
    more = len(found) > limit
    last_run = run_queries.last_closed_run_id(store)
    return Records.model_validate(
        {
            "data": [record(document["_id"], document) for document in shown],
            "pagination": {
                "limit": limit,
                "page": page,
                "next_cursor": _cursor(query, shown[-1]) if more else None,
                "has_more": more,
            },
            "run_id": last_run,
        }
    )


_RecordId = Annotated[
    str, Path(description="Its id: 40 hexadecimal digits, in any case.", examples=[RECORD_ID])
]


@router.get(
    "/data/<record_id>",
    summary="A record",
    description="One record by its id.",
    responses=responses("The record.", 400, 404),
    tags=["data"],
    operation_id="getRecord",
)
def get_record(request: Request, record_id: _RecordId) -> OneRecord:
    """One record."""
    document = _find(request, record_id)
    return OneRecord.model_validate(
        {"data": record(document["_id"], document), "run_id": document["run_id"]}
    )


@router.get(
    "/data/<record_id>/history",
    summary="The values of a record over time",
    description="All values that a source has given for this asset and time, the oldest first.",
    responses=responses("The values.", 400, 404),
    tags=["data"],
    operation_id="getHistory",
)
def get_history(request: Request, record_id: _RecordId) -> History:
    """The history of a record, the current value included."""
    document = _find(request, record_id)
    return History.model_validate(
        {
            "id": bytes(document["_id"]).hex(),
            "data": [_sighting(value) for value in (*document.get("history", ()), document)],
            "run_id": document["run_id"],
        }
    )


def _find(request: Request, record_id: str) -> Record:
    if not _ID.fullmatch(record_id):
        raise NotFound(f"There is no record {record_id[:80]!r}: an id has 40 hexadecimal digits.")
    return record_queries.find_record(services(request).store(), bytes.fromhex(record_id))


_ID = re.compile(f"[0-9A-Fa-f]{{{2 * ID_BYTES}}}")


def _sighting(document: Revision) -> Part:
    return {
        **{field: document.get(field) for field in VALUE_FIELDS},
        "run_id": document["run_id"],
        "received_at": clock.iso(document["received_at"]),
    }


def record(id_: bytes, document: CurrentRevision) -> Part:
    """A stored record as it is told."""
    return {
        "id": bytes(id_).hex(),
        **_sighting(document),
        "asset_id": document["asset_id"],
        "interval": document.get("interval"),
        "timestamp": clock.iso(document["timestamp"]),
        "source": document["source"],
        "dataset": document["dataset"],
        "revision": document["revision"],
    }


def _order(
    combined: str | None, field: str | None, direction: str | None
) -> tuple[str | None, bool | None]:
    """The field and whether it descends, each None where it is not said."""
    if combined is not None:
        field, colon, said = combined.partition(":")
        if field not in record_queries.SORTABLE:
            malformed(
                "sortBy",
                f"{field[:80]!r} is no field to sort by; these are: "
                f"{', '.join(record_queries.SORTABLE)}",
            )
        if colon and said not in ("asc", "desc"):
            malformed("sortBy", f"the direction is asc or desc, not {said[:80]!r}")
        direction = said or direction
    return field, direction == "desc" if direction else None


def _cursor(query: RecordQuery, last: Record) -> str:
    told: Mapping[str, Any] = last
    value = None if query.sort == "timestamp" else told[query.sort]
    return cursors.encode(
        _KIND,
        list(query.symbols),
        query.source,
        query.start and clock.to_ms(query.start),
        query.end and clock.to_ms(query.end),
        query.sort,
        query.descending,
        value,
        bytes(last["_id"]).hex(),
    )


def _resume(cursor: str, asked: _Asked) -> tuple[RecordQuery, Position]:
    """The query of a cursor and where it goes on; what is asked beside it must be the same."""
    symbols, source, start, end, sort, descending, value, id_ = cursors.decode(
        _KIND, cursor, _CURSOR_PARTS
    )
    if not (
        cursors.texts(symbols)
        and cursors.text_or_none(source)
        and sort in record_queries.SORTABLE
        and isinstance(descending, bool)
        and _is_value(sort, value)
    ):
        cursors.refuse()
    query = RecordQuery(
        symbols=read_symbols(symbols or None),
        source=read_text("source", source),
        start=_time(start),
        end=_time(end),
        sort=sort,
        descending=descending,
    )
    for name in (field.name for field in fields(asked)):
        given = getattr(asked, name)
        shown = {"sort": "sortBy", "descending": "sortBy", "symbols": "symbol"}.get(name, name)
        check_same(shown, None if given == () else given, getattr(query, name))
    return query, Position(value, cursors.id_bytes(id_, ID_BYTES))


def _is_value(sort: str, value: object) -> bool:
    """Whether a cursor's value can be one of the sort field."""
    if sort == "timestamp":
        return value is None
    if sort in _TEXT_FIELDS:
        return isinstance(value, str) or (sort == "name" and value is None)
    if value is None:
        return sort != "price_usd"
    return isinstance(value, float) and math.isfinite(value)


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_MS:
        cursors.refuse()
    return clock.from_ms(value)
