"""The composition root: settings, secret, database and AWS clients, once per environment."""

from __future__ import annotations

import os
from functools import cache

from marketdata.settings import SecretSettings, StoreSettings, read_settings
from marketdata.store.connection import Store, connect


@cache
def secret() -> dict[str, str]:
    """The values of the stack's secret; empty when no secret is configured.

    Kept for the life of the environment. A new value reaches the functions with the next
    deployment that changes SettingsVersion.

    Raises:
        SettingsError: it can't be read or is no JSON object of texts.
    """
    secret_id = read_settings(SecretSettings).secret_id
    if not secret_id:
        return {}
    from marketdata.aws.secrets import read_secret  # noqa: PLC0415 - boto3 is slow to import

    return read_secret(secret_id)


_REQUEST_MS = 12_000
"""A query has ten seconds (`store.reading.MAX_TIME_MS`). Of an answer that does not come, even to a
second try, the API can still tell within the 29 seconds that API Gateway waits."""


@cache
def store() -> Store:
    """The database that the environment, else the secret, names."""
    return connect(*_database())


@cache
def request_store() -> Store:
    """The same for functions that answer HTTP requests: an answer is not waited for as long."""
    return connect(*_database(), socket_ms=_REQUEST_MS)


def _database() -> tuple[str, str]:
    settings = read_settings(StoreSettings)
    return settings.mongodb_uri or secret().get("mongodb_uri", ""), settings.mongodb_database


def environment() -> dict[str, str]:
    """The process's environment variables, as the sources read them."""
    return dict(os.environ)
