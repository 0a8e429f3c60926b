"""The handler that every function extracting an API source has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.tasks import Event, Handler, task
from marketdata.runs.extraction.pages import extract
from marketdata.settings import BatchSettings, UpstreamSettings, read_settings
from marketdata.sources.base import ApiSource


def extractor(source: type[ApiSource]) -> Handler:
    """Makes the handler of `extract_<source>`: `{run_id}` in; see `Extracted` for out.

    Raises:
        SettingsError: at the function's start, if a setting that all of them have is malformed.
    """
    batches = read_settings(BatchSettings)
    upstream = read_settings(UpstreamSettings)

    @task(f"extract_{source.name}")
    def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
        extracted = extract(
            bootstrap.store(),
            event["run_id"],
            source.from_environment(bootstrap.environment(), bootstrap.secret()),
            rows_per_batch=batches.batch_rows,
            remaining_seconds=lambda: context.get_remaining_time_in_millis() / 1000,
            settings=upstream,
        )
        return asdict(extracted)

    return handler
