"""Cuts an uploaded CSV into batches."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.s3_objects import S3Objects
from marketdata.handlers.tasks import task
from marketdata.runs.uploads import extract_csv
from marketdata.settings import CsvSettings, read_settings

SETTINGS = read_settings(CsvSettings)
OBJECTS = S3Objects()


@task("extract_csv")
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """`{run_id, input}` in; see `runs.extraction.outcome.Extracted` for out."""
    extracted = extract_csv(
        bootstrap.store(),
        event["run_id"],
        event["input"],
        OBJECTS,
        settings=SETTINGS,
        remaining_seconds=lambda: context.get_remaining_time_in_millis() / 1000,
        current=OBJECTS.current,
    )
    return asdict(extracted)
