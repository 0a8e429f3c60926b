"""Loads one batch: raw rows in, records or quarantine out."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.tasks import task
from marketdata.load.loader import load_batch
from marketdata.objects import ObjectReader
from marketdata.store.batches import BatchKey


@task("normalize_load")
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """`{run_id, input, number}` in; the batch's counts out."""
    key = BatchKey(event["run_id"], event["input"], event["number"])
    objects = _objects() if key.input.startswith("csv-") else None
    return asdict(load_batch(bootstrap.store(), key, objects))


@cache
def _objects() -> ObjectReader:
    from marketdata.aws.s3_objects import S3Objects  # noqa: PLC0415 - boto3 is slow to import

    return S3Objects()
