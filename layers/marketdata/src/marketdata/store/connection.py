"""The one place that opens MongoDB and names its collections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bson.codec_options import CodecOptions
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from marketdata.errors import SettingsError, StoreUnavailable

type Document = dict[str, Any]

_MAJORITY_TIMEOUT_MS = 20_000
_CURSOR_LOST = 175
"""The server's QueryPlanKilled: the collection that a cursor was on is there no more."""


@dataclass(frozen=True, slots=True)
class Store:
    """The collections, with the guarantees that every use of them here relies on.

    Writes are acknowledged by a majority and reads see majority-committed data of the
    primary, so that what a step has seen or written survives a failover.
    """

    client: MongoClient[Document]
    database: Database[Document]
    raw_batches: Collection[Document]
    market_data: Collection[Document]
    latest_prices: Collection[Document]
    runs: Collection[Document]
    batches: Collection[Document]
    quarantine: Collection[Document]
    sources: Collection[Document]
    objects: Collection[Document]
    migrations: Collection[Document]


def connect(uri: str, database: str, *, server_selection_ms: int = 5_000) -> Store:
    """A store on the database of that name. No I/O happens before its first use.

    Raises:
        SettingsError: the URI is malformed; the message does not repeat it, as it may hold
            a password.
    """
    if not uri:
        raise SettingsError(
            "MONGODB_URI is not set, neither in the environment nor as `mongodb_uri` in the "
            "secret. Put the connection string there."
        )
    try:
        client: MongoClient[Document] = MongoClient(
            uri,
            appname="kasparro-etl",
            tz_aware=True,
            serverSelectionTimeoutMS=server_selection_ms,
            connectTimeoutMS=5_000,
            socketTimeoutMS=120_000,
            # One environment handles one event at a time; idle sockets cost the cluster memory.
            maxPoolSize=4,
            maxIdleTimeMS=60_000,
            retryWrites=True,
            retryReads=True,
        )
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise SettingsError(
            f"MONGODB_URI is not a usable MongoDB connection string ({type(error).__name__}). "
            "It should look like mongodb+srv://user:password@host/ or mongodb://host:27017/."
        ) from None
    options: CodecOptions[Document] = CodecOptions(tz_aware=True)
    db = client.get_database(
        database,
        codec_options=options,
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern(w="majority", wtimeout=_MAJORITY_TIMEOUT_MS),
        read_concern=ReadConcern("majority"),
    )
    return Store(
        client=client,
        database=db,
        raw_batches=db["raw_batches"],
        market_data=db["market_data"],
        latest_prices=db["latest_prices"],
        runs=db["runs"],
        batches=db["batches"],
        quarantine=db["quarantine"],
        sources=db["sources"],
        objects=db["objects"],
        migrations=db["migrations"],
    )


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turns the driver's errors about the connection into `StoreUnavailable`.

    Others (a validator's refusal, a malformed command) are defects and pass as they are.

    Args:
        doing: what was attempted, for the message: "saving batch 3 of run X".
    """
    try:
        yield
    except (ConnectionFailure, NetworkTimeout, ExecutionTimeout) as error:
        raise StoreUnavailable(
            f"MongoDB did not answer while {doing}: {_first_line(error)}. "
            "It is tried again; if this stays, check the cluster and the network access list."
        ) from error
    except PyMongoError as error:
        if error.timeout:
            raise StoreUnavailable(
                f"MongoDB was not done with {doing} in the time that there was: "
                f"{_first_line(error)}. It is tried again."
            ) from error
        if isinstance(error, OperationFailure) and error.code == _CURSOR_LOST:
            raise StoreUnavailable(
                f"A rebuild exchanged a collection while {doing}. It is tried again."
            ) from error
        if error.has_error_label("RetryableWriteError") or error.has_error_label(
            "TransientTransactionError"
        ):
            raise StoreUnavailable(
                f"MongoDB changed its primary while {doing}: {_first_line(error)}. "
                "It is tried again."
            ) from error
        raise


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
