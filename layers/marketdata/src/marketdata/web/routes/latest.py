"""`/latest` and `/symbols`: what there is now."""

from __future__ import annotations

from aws_lambda_powertools.event_handler import Request

from marketdata import clock
from marketdata.documents.market_data import LatestPrice
from marketdata.store import latest_prices, run_queries
from marketdata.store.latest_prices import LatestPosition
from marketdata.web import cursor as cursors
from marketdata.web.models.common import Part
from marketdata.web.models.latest import Latest, SymbolList
from marketdata.web.parameters import (
    DEFAULT_LIMIT,
    CursorText,
    Limit,
    Source,
    Symbols,
    check_same,
    read_symbols,
    read_text,
)
from marketdata.web.responses import responses
from marketdata.web.routes.data import record
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()

_ASSET_KEY_BYTES = 12


@router.get(
    "/latest",
    summary="The newest prices",
    description="The newest record of each source's asset, by ticker. A ticker may stand for "
    "several coins: tell them apart by `source` and `asset_id`.",
    responses=responses("A page; an empty one if nothing matches.", 400, 404),
    tags=["data"],
    operation_id="listLatest",
)
def list_latest(
    request: Request,
    symbol: Symbols = None,
    source: Source = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
) -> Latest:
    """One page of newest records."""
    symbols, source, after = read_symbols(symbol), read_text("source", source), None
    if cursor is not None:
        kept = cursors.decode("latest", cursor, 4)
        kept_symbols, kept_source, last_symbol, last_id = kept
        if not (
            cursors.texts(kept_symbols)
            and cursors.text_or_none(kept_source)
            and isinstance(last_symbol, str)
        ):
            cursors.refuse()
        check_same("symbol", symbols or None, read_symbols(kept_symbols or None) or None)
        check_same("source", source, kept_source)
        symbols, source = read_symbols(kept_symbols or None), read_text("source", kept_source)
        after = LatestPosition(last_symbol, cursors.id_bytes(last_id, _ASSET_KEY_BYTES))
    store = services(request).store()
    found = latest_prices.find_latest(
        store, limit=limit + 1, symbols=symbols, source=source, after=after
    )
    shown, more = found[:limit], len(found) > limit
    next_cursor = None
    if more:
        last = shown[-1]
        next_cursor = cursors.encode(
            "latest", list(symbols), source, last["symbol"], bytes(last["_id"]).hex()
        )
    return Latest.model_validate(
        {
            "data": [record(price["record_id"], price) for price in shown],
            "pagination": {"limit": limit, "next_cursor": next_cursor, "has_more": more},
            "run_id": run_queries.last_closed_run_id(store),
        }
    )


@router.get(
    "/symbols",
    summary="All tickers",
    description="Tickers in alphabetical order, each with the assets that have it.",
    responses=responses("A page; an empty one if nothing matches.", 400, 404),
    tags=["data"],
    operation_id="listSymbols",
)
def list_symbols(
    request: Request,
    source: Source = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorText = None,
) -> SymbolList:
    """One page of tickers."""
    source, after = read_text("source", source), None
    if cursor is not None:
        kept_source, after = cursors.decode("symbols", cursor, 2)
        if not (cursors.text_or_none(kept_source) and isinstance(after, str)):
            cursors.refuse()
        check_same("source", source, kept_source)
        source = read_text("source", kept_source)
    store = services(request).store()
    found = latest_prices.find_symbols(store, limit=limit + 1, source=source, after=after)
    shown, more = found[:limit], len(found) > limit
    return SymbolList.model_validate(
        {
            "data": [
                {"symbol": symbol, "assets": [_asset(asset) for asset in assets]}
                for symbol, assets in shown
            ],
            "pagination": {
                "limit": limit,
                "next_cursor": cursors.encode("symbols", source, shown[-1][0]) if more else None,
                "has_more": more,
            },
            "run_id": run_queries.last_closed_run_id(store),
        }
    )


def _asset(document: LatestPrice) -> Part:
    return {
        "asset_id": document["asset_id"],
        "name": document["name"],
        "source": document["source"],
        "dataset": document["dataset"],
        "timestamp": clock.iso(document["timestamp"]),
    }
