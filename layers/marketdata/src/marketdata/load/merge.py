"""One winner, whatever the order: how the revisions of one identity become one record.

A revision is what one row said of an identity, with where it came from. Precedence orders
revisions: received at, then object version, then row. The highest is current; the others are
history, oldest first; neighbours that say the same are one revision, the first of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from marketdata.documents.market_data import Record, Revision
from marketdata.schema.identity import digest
from marketdata.schema.record import VALUE_FIELDS

ORIGIN_FIELDS = ("run_id", "raw_id", "row", "received_at", "version")
"""Where a revision came from; `version` is the S3 object's, and absent for APIs."""

_IDENTITY_FIELDS = ("_id", "asset_id", "timestamp", "source", "dataset", "interval")


def precedence(revision: Revision) -> tuple[object, str, int, str]:
    """What orders the revisions of one identity.

    The raw batch comes last: two pages can arrive within one millisecond, and the order in
    which their batches are loaded must not decide.
    """
    return (
        revision["received_at"],
        revision.get("version") or "",
        revision["row"],
        revision["raw_id"],
    )


def same_values(a: Revision, b: Revision) -> bool:
    """Whether two revisions say the same."""
    return all(a.get(field) == b.get(field) for field in VALUE_FIELDS)


def same_row(a: Revision, b: Revision) -> bool:
    """Whether two revisions are the same row of the same receipt.

    Content that comes again unchanged is the same raw batch, received by another run.
    """
    return (a["raw_id"], a["row"], a["run_id"]) == (b["raw_id"], b["row"], b["run_id"])


def revisions(document: Record) -> list[Revision]:
    """A record taken apart into its revisions, oldest first."""
    return [*document.get("history", ()), _part(document)]


def same_history(a: Record, b: Record) -> bool:
    """Whether two states of a record say the same, now and in their history."""
    of_a, of_b = revisions(a), revisions(b)
    return len(of_a) == len(of_b) and all(map(same_values, of_a, of_b))


def merge(documents: Iterable[Record]) -> Record:
    """One record out of several of the same identity, each with its history.

    The result does not depend on the order given.
    """
    documents = list(documents)
    found = sorted((r for d in documents for r in revisions(d)), key=precedence)
    kept: list[Revision] = []
    for revision in found:
        if not kept or not same_values(kept[-1], revision):
            kept.append(revision)
    first: Mapping[str, Any] = documents[0]
    current: Mapping[str, Any] = kept[-1]
    identity = {f: first[f] for f in _IDENTITY_FIELDS if f in first}
    # In the order in which records are inserted: whoever looks them up reads them as bytes.
    values = {f: current[f] for f in VALUE_FIELDS if f in current}
    merged: Any = {
        **identity,
        **values,
        "digest": digest(current),
        **current,
        "revision": len(kept),
    }
    if len(kept) > 1:
        merged["history"] = kept[:-1]
    record: Record = merged
    return record


def _part(document: Record) -> Revision:
    told: Mapping[str, Any] = document
    part: Any = {f: told[f] for f in (*VALUE_FIELDS, *ORIGIN_FIELDS) if f in told}
    revision: Revision = part
    return revision
