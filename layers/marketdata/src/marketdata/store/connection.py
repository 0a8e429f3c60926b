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
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from marketdata.documents.alerts import Alert
from marketdata.documents.asked_ranges import AskedRanges
from marketdata.documents.batches import Batch
from marketdata.documents.market_data import LatestPrice, Record
from marketdata.documents.migrations import AppliedMigration
from marketdata.documents.objects import IgnoredObject, UploadedObject
from marketdata.documents.quarantine import QuarantinedRow
from marketdata.documents.questions import RememberedAnswers
from marketdata.documents.raw_batches import RawBatch
from marketdata.documents.rebuilds import Rebuild
from marketdata.documents.runs import Run
from marketdata.documents.schedule import KnownRule
from marketdata.documents.sources import Source
from marketdata.errors import (
    MarketDataError,
    SettingsError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)

type Filter = dict[str, Any]
"""Which documents, in MongoDB's query language."""
type Update = dict[str, Any]
"""What an update does, in MongoDB's language: its operators, or a stage of a pipeline."""
type Expression = Any
"""A value that MongoDB computes, in its aggregation language."""
type Pipeline = list[dict[str, Any]]
"""Stages of an aggregation."""
type Projection = dict[str, int]
"""Which keys of documents are answered (1) or left out (0)."""

_MAJORITY_TIMEOUT_MS = 20_000
_SOCKET_TIMEOUT_MS = 120_000
_CURSOR_LOST = 175
"""The server's QueryPlanKilled: the collection that a cursor was on is there no more."""
_CURSOR_FORGOTTEN = frozenset({43, 237})
"""CursorNotFound and CursorKilled: the server was restarted, or somebody ended the cursor."""
_PASSING = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        63,  # StaleShardVersion
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        112,  # WriteConflict
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        150,  # StaleEpoch
        189,  # PrimarySteppedDown
        262,  # ExceededTimeLimit
        9001,  # SocketException
        10058,  # LegacyNotPrimary
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13388,  # StaleConfig
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
"""Of the server's codes those that pass: the driver specifications' retryable ones of reads and
resumable ones of change streams, and WriteConflict, whose text says to retry. The driver labels
none of them on a read, does not try a cursor's later batches again at all, and has its own list
as a private name only."""
_PASSING_LABELS = ("RetryableWriteError", "TransientTransactionError", "RetryableError")
_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13
_NO_CREDENTIALS = "requires authentication"
_NO_ROOM = (14031, 12501)
"""The server's OutOfDiskSpace, and its former code for a quota that is used up."""
_ATLAS = 8000
"""Of Atlas's own refusals; only their texts say what they are about."""
_ATLAS_NO_ROOM = ("space quota", "storage quota", "quota exceeded")
_ATLAS_UNKNOWN = ("bad auth", "authentication failed", "auth error")
_ATLAS_FORBIDDEN = ("not allowed to do action", "user is not allowed", "not authorized")


@dataclass(frozen=True, slots=True)
class Store:
    """The collections, with the guarantees that every use of them here relies on.

    Writes are acknowledged by a majority and reads see majority-committed data of the
    primary, so that what a step has seen or written survives a failover.
    """

    client: MongoClient[Any]
    database: Database[Any]
    """Untyped: what is here goes by names, or is no document of a collection."""
    raw_batches: Collection[RawBatch]
    market_data: Collection[Record]
    latest_prices: Collection[LatestPrice]
    runs: Collection[Run]
    batches: Collection[Batch]
    quarantine: Collection[QuarantinedRow]
    sources: Collection[Source]
    objects: Collection[UploadedObject]
    ignored_objects: Collection[IgnoredObject]
    answers: Collection[RememberedAnswers]
    alerts: Collection[Alert]
    asked_ranges: Collection[AskedRanges]
    schedule: Collection[KnownRule]
    rebuilds: Collection[Rebuild]
    migrations: Collection[AppliedMigration]


def connect(
    uri: str,
    database: str,
    *,
    server_selection_ms: int = 5_000,
    socket_ms: int | None = None,
    patient: bool = False,
) -> Store:
    """A store on the database of that name. MongoDB is not asked before its first use.

    Args:
        uri: the connection string.
        database: the name.
        server_selection_ms: how long a server is looked for that can be used.
        socket_ms: how long an answer is waited for, where no operation has its own limit; None
            for two minutes.
        patient: wait for an answer as long as it takes, as building an index on millions of
            documents does. That the server is gone is then noticed by TCP's keepalive.

    Raises:
        SettingsError: the URI is malformed, or DNS does not know its host; the message does not
            repeat it, as it may hold a password.
        StoreUnavailable: DNS did not answer. Of a URI with `mongodb+srv` the driver asks DNS
            here, or, in Lambda, at the first use, which `store_errors` sees.
    """
    if not uri:
        raise SettingsError(
            "MONGODB_URI is not set, neither in the environment nor as `mongodb_uri` in the "
            "secret. Put the connection string there."
        )
    try:
        client: MongoClient[Any] = MongoClient(
            uri,
            appname="kasparro-etl",
            tz_aware=True,
            serverSelectionTimeoutMS=server_selection_ms,
            connectTimeoutMS=5_000,
            socketTimeoutMS=None if patient else socket_ms or _SOCKET_TIMEOUT_MS,
            # One environment handles one event at a time; idle sockets cost the cluster memory.
            maxPoolSize=4,
            maxIdleTimeMS=60_000,
            retryWrites=True,
            retryReads=True,
        )
    except (InvalidURI, ConfigurationError, ValueError) as error:
        if (named := _of_dns(error)) is not None:
            raise named from None
        raise SettingsError(
            f"MONGODB_URI is not a usable MongoDB connection string ({type(error).__name__}). "
            "It should look like mongodb+srv://user:password@host/ or mongodb://host:27017/."
        ) from None
    options: CodecOptions[Any] = CodecOptions(tz_aware=True)
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
        ignored_objects=db["ignored_objects"],
        answers=db["answers"],
        alerts=db["alerts"],
        asked_ranges=db["asked_ranges"],
        schedule=db["schedule"],
        rebuilds=db["rebuilds"],
        migrations=db["migrations"],
    )


def aggregate(
    collection: Collection[Any], pipeline: Pipeline, **options: Any
) -> Iterator[dict[str, Any]]:
    """What an aggregation answers, which is something else than the collection's documents."""
    return collection.aggregate(pipeline, **options)


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turns the driver's errors about the connection into `StoreUnavailable`.

    So it does with those about the account: `StoreRefused` is for who configures the service,
    `StoreFull` for who pays for the cluster, and `SettingsError` is for a host that DNS does not
    know. Others (a validator's refusal, a malformed command) are defects and pass as they are.

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
        if any(map(error.has_error_label, _PASSING_LABELS)):
            raise StoreUnavailable(
                f"MongoDB changed its primary, or was too busy, while {doing}: "
                f"{_first_line(error)}. It is tried again."
            ) from error
        if isinstance(error, OperationFailure) and (
            named := _of_account(error, doing) or _of_the_moment(error, doing)
        ):
            raise named from error
        if (named := _of_dns(error)) is not None:
            raise named from None
        raise


def _of_account(error: OperationFailure, doing: str) -> MarketDataError | None:
    """An error that the user or the room of the account causes; None for any other."""
    for code, text in _faults(error):
        said = _said(text)
        atlas = text.lower() if code == _ATLAS else ""
        if code in _NO_ROOM or any(words in atlas for words in _ATLAS_NO_ROOM):
            return StoreFull(
                f"MongoDB had no room while {doing}: {said}. Enlarge the disk or the cluster's "
                "plan, or let old raw batches go (RAW_RETENTION_DAYS). Nothing is lost: what was "
                "received is tried again by every run, and goes on by itself once there is room."
            )
        unknown = code == _UNAUTHORIZED and _NO_CREDENTIALS in text
        unknown |= any(words in atlas for words in _ATLAS_UNKNOWN)
        if unknown or code == _AUTHENTICATION_FAILED:
            return StoreRefused(
                f"MongoDB did not let this service in while {doing}: {said}. Correct the user and "
                "the password in `mongodb_uri` of the secret (characters such as @ and / have to "
                "be percent-encoded; authSource names the database that the user is in), and "
                "deploy. Trying again does not help."
            )
        if code == _UNAUTHORIZED or any(words in atlas for words in _ATLAS_FORBIDDEN):
            return StoreRefused(
                f"MongoDB does not allow this service's user to do this: {doing} ({said}). Give "
                "the user the role readWrite on the database MONGODB_DATABASE; migrations need "
                "dbAdmin as well. Trying again does not help before."
            )
    return None


def _of_the_moment(error: OperationFailure, doing: str) -> StoreUnavailable | None:
    """An error that passes by itself, told by its code; None for any other."""
    for code, text in _faults(error):
        if code in _CURSOR_FORGOTTEN:
            return StoreUnavailable(
                f"MongoDB lost the cursor while {doing}: {_said(text)}. It was restarted, or the "
                "cursor was ended. It is tried again."
            )
        if code in _PASSING:
            return StoreUnavailable(
                f"MongoDB could not finish {doing} at the moment: {_said(text)} (code {code}). "
                "It is tried again; if this stays, check the cluster."
            )
    return None


def _of_dns(error: Exception) -> MarketDataError | None:
    """An error of looking up the hosts of a `mongodb+srv` URI; None for any other.

    The driver tells of it by the text and the cause of a ConfigurationError. Neither is repeated
    but for the cause's class: of a malformed URI they may hold a part of the password.
    """
    cause = error.__cause__
    if not isinstance(error, ConfigurationError) or cause is None:
        return None
    # Imported here, as the driver does which brings it: it is slow, and seldom needed.
    from dns import exception, resolver  # noqa: PLC0415

    about = f"of the hosts in MONGODB_URI ({type(cause).__name__})"
    if isinstance(cause, resolver.NXDOMAIN | resolver.NoAnswer):
        return SettingsError(
            f"DNS has no SRV record {about}. Check the host's name in `mongodb_uri` of the secret, "
            "and that the cluster still exists; a host without SRV records is written as "
            "mongodb://host:27017/."
        )
    passing = exception.Timeout | resolver.NoNameservers | resolver.NoResolverConfiguration
    if isinstance(cause, passing):
        return StoreUnavailable(
            f"DNS did not answer when asked {about}. It is tried again; if this stays, check that "
            "the function's network reaches a name server."
        )
    if isinstance(cause, exception.DNSException):
        return SettingsError(
            f"DNS can't be asked for the SRV records {about}. Check the host's name in "
            "`mongodb_uri` of the secret, and that the password is percent-encoded."
        )
    return None


def _faults(error: OperationFailure) -> list[tuple[int | None, str]]:
    """What the server said went wrong, as codes and texts: of a bulk of writes that may be much."""
    if not isinstance(error, BulkWriteError):
        return [(error.code, str(error))]
    details: Any = error.details
    told = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
    return [(fault.get("code"), str(fault.get("errmsg", ""))) for fault in told]


def _said(text: str) -> str:
    return text.partition(", full error:")[0].splitlines()[0][:200] if text else ""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
