"""What else than its rows decides what a batch becomes."""

from __future__ import annotations

import json
from hashlib import blake2b

from marketdata.documents.batches import ReceivedRows

NORMALISER_VERSION = 3
"""Raised whenever the same raw rows would become other records."""


def context_of(batch: ReceivedRows) -> str:
    """A hash of a batch's context: equal rows in equal contexts become equal records.

    The header and the layout of a file (which column is which field, and the dataset), its
    malformed rows, and the normaliser's version.
    """
    parts = [batch.get(name) for name in ("header", "layout", "malformed")]
    text = json.dumps([NORMALISER_VERSION, batch["source"], *parts], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()
