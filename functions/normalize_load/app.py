"""Loads one batch: raw rows in, records or quarantine out."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any, TypedDict

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.tasks import task
from marketdata.load.loader import load_within
from marketdata.objects import ObjectReader
from marketdata.store.batches.batch import BatchKey
from marketdata.store.leases import is_object


class Loaded(TypedDict):
    """What became of a batch in one call."""

    again: bool
    """Whether to call again at once, as the time of this call was up."""
    counts: dict[str, int]
    """What became of its rows so far; see `Counts`."""


@task("normalize_load")
def handler(event: dict[str, Any], context: LambdaContext) -> Loaded:
    """`{run_id, input, number}` in; what became of the batch out."""
    key = BatchKey(event["run_id"], event["input"], event["number"])
    loading = load_within(
        bootstrap.store(),
        key,
        _objects() if is_object(key.input) else None,
        remaining_seconds=lambda: context.get_remaining_time_in_millis() / 1000,
    )
    return {"again": loading.again, "counts": asdict(loading.counts)}


@cache
def _objects() -> ObjectReader:
    from marketdata.aws.s3_objects import S3Objects  # noqa: PLC0415 - boto3 is slow to import

    return S3Objects()
