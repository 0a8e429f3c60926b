"""How much is kept at the moment."""

from __future__ import annotations

from marketdata.documents.runs import RowsBefore
from marketdata.store.connection import Store
from marketdata.store.raw_batches import raw_row_count
from marketdata.store.reading import reading


def row_counts(store: Store) -> RowsBefore:
    """What is kept at the moment: rows in all raw batches, and records.

    Records are counted by the collection's own number, which MongoDB keeps with every write
    and gives at once. It is exact, but for two cases of its documentation: for a while after a
    crash of mongod, and on a sharded cluster while chunks move.
    """
    with reading("counts"):
        records = store.market_data.estimated_document_count()
    return {"raw": raw_row_count(store), "normalized": records}


def quarantined_count(store: Store) -> int:
    """Rows that are set aside at the moment; counted as records are."""
    with reading("counts"):
        return store.quarantine.estimated_document_count()
