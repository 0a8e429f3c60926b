"""The handler that every function extracting an API source has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.handlers.tasks import Event, Handler, task
from marketdata.runs.extraction.history import extract_history
from marketdata.runs.extraction.pages import extract
from marketdata.settings import BatchSettings, UpstreamSettings, read_settings
from marketdata.sources.base import ApiSource
from marketdata.sources.history import HistorySource
from marketdata.store.leases import backfill_of


def extractor(source: type[ApiSource]) -> Handler:
    """Makes the handler of `extract_<source>`: `{run_id, input}` in; see `Extracted` for out.

    The input is the source, or its past.

    Raises:
        SettingsError: at the function's start, if a setting that all of them have is malformed.
    """
    batches = read_settings(BatchSettings)
    upstream = read_settings(UpstreamSettings)

    @task(f"extract_{source.name}")
    def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
        configured = source.from_environment(bootstrap.environment(), bootstrap.secret())

        def remaining_seconds() -> float:
            return context.get_remaining_time_in_millis() / 1000

        if event.get("input") == backfill_of(source.name) and isinstance(configured, HistorySource):
            extracted = extract_history(
                bootstrap.store(),
                event["run_id"],
                configured,
                rows_per_batch=batches.batch_rows,
                remaining_seconds=remaining_seconds,
                settings=upstream,
            )
        else:
            extracted = extract(
                bootstrap.store(),
                event["run_id"],
                configured,
                rows_per_batch=batches.batch_rows,
                remaining_seconds=remaining_seconds,
                settings=upstream,
            )
        return asdict(extracted)

    return handler
