"""Stored documents in tests; and whether they are as `marketdata.documents` declares them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, is_typeddict

from pydantic import ConfigDict, TypeAdapter, ValidationError

from marketdata import documents
from marketdata.documents.alerts import Alert
from marketdata.documents.asked_ranges import AskedRanges
from marketdata.documents.batches import Batch
from marketdata.documents.market_data import LatestPrice, Record
from marketdata.documents.migrations import AppliedMigration
from marketdata.documents.objects import IgnoredObject, UploadedObject
from marketdata.documents.quarantine import QuarantinedRow
from marketdata.documents.raw_batches import RawBatch
from marketdata.documents.rebuilds import Rebuild
from marketdata.documents.runs import Run
from marketdata.documents.schedule import KnownRule
from marketdata.documents.sources import Source
from marketdata.store.connection import Store

type Document = Any
"""A document as a test makes or reads it, of whatever form: it may be half of one on purpose."""

FORMS: Mapping[str, Any] = {
    "raw_batches": RawBatch,
    "market_data": Record,
    "latest_prices": LatestPrice,
    "runs": Run,
    "batches": Batch,
    "quarantine": QuarantinedRow,
    "sources": Source,
    "objects": UploadedObject,
    "alerts": Alert,
    "asked_ranges": AskedRanges,
    "ignored_objects": IgnoredObject,
    "rebuilds": Rebuild,
    "schedule": KnownRule,
    "migrations": AppliedMigration,
}
"""Of each collection, what its documents are."""


def assert_declared(store: Store) -> None:
    """Every document of a database is of its form: no other key, and no value of another type."""
    assert list(_undeclared(store)) == []


def _undeclared(store: Store) -> Iterator[str]:
    for name in FORMS:
        for document in store.database[name].find():
            try:
                _adapter(name).validate_python(document)
            except ValidationError as error:
                for fault in error.errors(include_url=False):
                    place = ".".join(map(str, fault["loc"]))
                    yield f"{name} {document['_id']!r}: {place}: {fault['msg']}"


@cache
def _adapter(collection: str) -> TypeAdapter[Any]:
    _forbid_other_keys()
    return TypeAdapter(FORMS[collection])


@cache
def _forbid_other_keys() -> None:
    for module in pkgutil.iter_modules(documents.__path__):
        for form in vars(importlib.import_module(f"{documents.__name__}.{module.name}")).values():
            if is_typeddict(form):
                form.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
