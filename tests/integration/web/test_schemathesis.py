"""The document against the service: whatever it allows is answered as it says, and nothing else.

Requests go through the functions' own handlers as API Gateway would deliver them, to a real
MongoDB.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from marketdata.aws.s3 import Uploads
from marketdata.aws.s3_objects import S3Objects
from marketdata.store.connection import Store
from tests.support.gateway import TOKEN, Gateway, make_gateway
from tests.support.records import (
    make_batch,
    make_quarantined,
    make_record,
    make_run,
    put_records,
)
from tests.support.uploads import BUCKET, Bucket


class Door:
    """A WSGI application whose gateway is put behind it when there is a database."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self.gateway: Gateway = make_gateway(
            self._store,
            uploads=lambda: Uploads("uploads-test"),
            objects=lambda: S3Objects(BUCKET),
            upload_max_bytes=5 * 1024**3,
        )

    def _store(self) -> Store:
        assert self.store is not None
        return self.store

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        return self.gateway(environ, start)


DOOR = Door()
SCHEMA = schemathesis.openapi.from_wsgi("/openapi.json", DOOR)
# The document's server is "./", where it was served from, which schemathesis does not resolve.
SCHEMA.config.update(base_url="http://localhost")


@pytest.fixture
def _behind(store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of everything."""
    bucket.put("incoming/BTC/prices.csv", "date,close\n2025-05-09,97000.5\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    put_records(store, *[make_record(minutes=minute) for minute in range(30)])
    run = make_run(1, inserted=10)
    store.runs.insert_one(run)
    store.batches.insert_one(make_batch(run, inserted=10))
    store.quarantine.insert_many([make_quarantined(number) for number in range(5)])
    DOOR.store = store


@pytest.mark.usefixtures("_behind")
@SCHEMA.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_the_document_says(case: schemathesis.Case[Any]) -> None:
    # No schema can say which assets are known, or what a source's plan gives.
    refusing = case.operation.path == "/backfills"
    case.call_and_validate(
        headers={"Authorization": f"Bearer {TOKEN}"},
        excluded_checks=[positive_data_acceptance] if refusing else [],
    )
