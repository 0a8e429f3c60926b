"""What tests of extracting pages look at: the rows asked for, kept, and noted."""

from __future__ import annotations

import json
from typing import Any

from marketdata.load.raw import unpack
from marketdata.store import runs
from marketdata.store.connection import Store
from tests.support.documents import Document
from tests.support.pipeline import Pipeline, coin
from tests.support.upstream import Upstream


def coins(number: int) -> list[dict[str, Any]]:
    """Rows as of CoinGecko."""
    return [coin(f"coin {n}") for n in range(number)]


def note(pipeline: Pipeline, run_id: str) -> Document:
    """What a run with one input knows about it."""
    inputs: Document = runs.get(pipeline.store, run_id)["inputs"]
    return next(iter(inputs.values()))


def raw_rows(store: Store) -> list[Any]:
    """All rows in raw batches, by page and place."""
    raw: list[Document] = list(store.raw_batches.find({}))
    found = sorted(raw, key=lambda d: (d["origin"]["page"], d["first_row"]))
    return [row for document in found for row in json.loads(unpack(document))]


def pages_asked(server: Upstream) -> list[str]:
    """The numbers of the pages that were asked for, in order."""
    return [seen.query["page"] for seen in server.seen]
