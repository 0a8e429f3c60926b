"""Settings: small models read from environment variables, composed per function.

A field `mongodb_uri` is the variable `MONGODB_URI`. Each function validates only what it
reads, at its start, so that a wrong value is named before any work is done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marketdata.errors import SettingsError
from marketdata.masking import masked


class Settings(BaseModel):
    """Base of all settings models; unknown variables are none of its business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class StoreSettings(Settings):
    """Which database; its URI comes from the environment or from the secret."""

    mongodb_uri: str = ""
    mongodb_database: str = Field(default="marketdata", pattern=r"^[A-Za-z0-9_-]{1,38}$")


class SecretSettings(Settings):
    """Where the secret is kept: Secrets Manager's id or ARN; empty when nothing is secret."""

    secret_id: str = ""


class SourceSettings(Settings):
    """Which sources a run takes, by module name, separated by commas."""

    sources: str = Field(default="coingecko,coinpaprika", pattern=r"[^,\s]")

    def names(self) -> list[str]:
        """The sources' names in the order given, without blanks and repetitions."""
        return list(dict.fromkeys(n.strip() for n in self.sources.split(",") if n.strip()))


class BatchSettings(Settings):
    """How rows are cut into batches."""

    batch_rows: int = Field(default=50_000, ge=1, le=50_000)


class UpstreamSettings(Settings):
    """How long and how often a source is tried."""

    max_wait_minutes: int = Field(default=30, ge=0, le=720)
    """What a run waits for a source's quota in all, before it leaves the rest to the next run."""
    circuit_breaker_failures: int = Field(default=5, ge=1, le=1_000)
    """Runs in a row that a source fails before it is not asked for a while."""
    circuit_breaker_minutes: int = Field(default=15, ge=1, le=1_440)
    """How long that while is, until one call may try."""


class UploadSettings(Settings):
    """Where uploads are put; empty when there is no such bucket."""

    uploads_bucket: str = ""


class WorkflowSettings(Settings):
    """Which state machine carries runs out; empty where none is to be started."""

    state_machine_arn: str = ""


class CsvSettings(BatchSettings):
    """How a CSV is cut into batches."""

    batch_bytes: int = Field(default=4 * 2**20, ge=2**16, le=32 * 2**20)
    csv_gzip_max_bytes: int = Field(default=2**30, ge=1, le=64 * 2**30)


def read_settings[S: Settings](model: type[S], environment: Mapping[str, str] | None = None) -> S:
    """One settings model, validated from environment variables.

    Empty variables count as not set, as templates pass empty strings for what is optional.

    Raises:
        SettingsError: names each variable that is missing or malformed.
    """
    environment = os.environ if environment is None else environment
    values = {
        name: value
        for name in model.model_fields
        if (value := environment.get(name.upper(), "").strip())
    }
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{str(e['loc'][0]).upper()}: {e['msg']} (is {_shown(e['loc'][0], e['input'])!r})"
            for e in error.errors()
        )
        raise SettingsError(
            f"Settings are wrong: {faults}. Correct them and deploy again."
        ) from None


def _shown(name: int | str, value: object) -> object:
    """A value as an error may repeat it: an address can have a key in it."""
    address = str(name).endswith(("_url", "_uri")) or "://" in str(value)
    return masked(str(value)) if address else value
