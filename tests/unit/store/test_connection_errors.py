"""What the driver's errors become: whether trying again helps, and what does if not."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo import helpers_shared
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    CursorNotFound,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteError,
    WTimeoutError,
)

from marketdata.errors import (
    MarketDataError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    TerminalError,
    TransientError,
)
from marketdata.runs.closing import _OUTAGES
from marketdata.store.connection import _PASSING, store_errors
from marketdata.web.problems import problem

SPACE = (
    "you are over your space quota, using 512 MB of 512 MB, full error: "
    "{'ok': 0, 'code': 8000, 'codeName': 'AtlasError'}"
)


def bulk(**faults: Any) -> BulkWriteError:
    return BulkWriteError({"writeErrors": [], "writeConcernErrors": [], **faults})


def labelled(text: str, code: int, *labels: str) -> OperationFailure:
    return OperationFailure(text, code, {"errorLabels": list(labels)})


def met(error: PyMongoError) -> MarketDataError:
    """What an error becomes while a batch is saved."""
    with pytest.raises(MarketDataError) as caught, store_errors("saving batch 3 of run X"):
        raise error
    assert caught.value.__cause__ is error
    assert "saving batch 3 of run X" in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (ServerSelectionTimeoutError("no servers"), StoreUnavailable, "network access list"),
        (AutoReconnect("connection closed"), StoreUnavailable, "tried again"),
        (ExecutionTimeout("exceeded time limit", 50), StoreUnavailable, "tried again"),
        (WTimeoutError("waiting for replication", 64), StoreUnavailable, "tried again"),
        (CursorNotFound("cursor id 7 not found", 43), StoreUnavailable, "lost the cursor"),
        (OperationFailure("operation was interrupted", 237), StoreUnavailable, "lost the cursor"),
        (OperationFailure("Please retry your operation", 112), StoreUnavailable, "tried again"),
        (labelled("rate limit exceeded", 462, "RetryableError"), StoreUnavailable, "tried again"),
        (bulk(writeConcernErrors=[{"code": 91, "errmsg": "shutdown in progress"}]),
         StoreUnavailable, "shutdown in progress (code 91). It is tried again"),
        (bulk(writeErrors=[{"index": 0, "code": 11602, "errmsg": "repl state change"}]),
         StoreUnavailable, "tried again"),
        (OperationFailure("Authentication failed.", 18), StoreRefused, "`mongodb_uri`"),
        (OperationFailure("bad auth : authentication failed", 8000), StoreRefused, "password"),
        (OperationFailure("Command find requires authentication", 13), StoreRefused, "password"),
        (OperationFailure("not authorized on x to execute command", 13), StoreRefused, "readWrite"),
        (OperationFailure("user is not allowed to do action [insert] on [x.y]", 8000),
         StoreRefused, "readWrite"),
        (bulk(writeErrors=[{"index": 0, "code": 13, "errmsg": "not authorized on x"}]),
         StoreRefused, "readWrite"),
        (OperationFailure(SPACE, 8000), StoreFull, "plan"),
        (WriteError("available disk space of 1 bytes is less than", 14031), StoreFull, "disk"),
        (bulk(writeErrors=[{"index": 1, "code": 11000, "errmsg": "duplicate key"},
                           {"index": 2, "code": 8000, "errmsg": SPACE}]), StoreFull, "plan"),
        (bulk(writeConcernErrors=[{"code": 14031, "errmsg": "no space"}]), StoreFull, "disk"),
    ],
)  # fmt: skip
def test_what_an_error_of_the_driver_becomes(
    error: PyMongoError, kind: type[MarketDataError], remedy: str
) -> None:
    named = met(error)
    assert type(named) is kind
    assert remedy in named.message


def test_whatever_the_driver_itself_would_try_again_is_tried_again() -> None:
    """Its own list is a private name, so the copy is compared with it."""
    assert helpers_shared._RETRYABLE_ERROR_CODES <= _PASSING
    for code in _PASSING:
        named = met(OperationFailure("not now", code))
        assert type(named) is StoreUnavailable
        assert f"not now (code {code}). It is tried again" in named.message


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("Sessions are not supported by this MongoDB deployment"),
        DuplicateKeyError("E11000 duplicate key", 11000),
        WriteError("Document failed validation", 121),
        OperationFailure("unknown operator: $nothing", 2),
        OperationFailure("an Atlas error of another kind", 8000),
        bulk(writeErrors=[{"index": 0, "code": 11000, "errmsg": "duplicate key"}]),
    ],
)
def test_a_defect_passes_as_it_is(error: PyMongoError) -> None:
    with pytest.raises(type(error)) as caught, store_errors("saving batch 3 of run X"):
        raise error
    assert caught.value is error


def test_a_full_database_is_waited_for_and_a_refusal_is_not() -> None:
    full, refused = met(OperationFailure(SPACE, 8000)), met(OperationFailure("no", 18))
    assert isinstance(full, TransientError)
    assert isinstance(refused, TerminalError)
    # What the server said after the first sentence names nothing that helps.
    assert "full error" not in full.message
    # Neither is the fault of the batch or the file that met it.
    assert {full.code, refused.code} <= set(_OUTAGES)


def test_a_client_is_told_no_more_than_whether_to_try_again() -> None:
    full = problem(met(OperationFailure(SPACE, 8000)))
    assert (full.status, full.code) == (503, "store_full")
    assert "512" not in full.message
    refused = problem(met(OperationFailure("Authentication failed.", 18)))
    assert (refused.status, refused.code) == (500, "store_refused")
    assert "mongodb_uri" not in refused.message
