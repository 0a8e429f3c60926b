"""Settings of the API's functions."""

from __future__ import annotations

from pydantic import Field

from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import Settings, SourceSettings


class WebSettings(Settings):
    """Settings of the API's functions."""

    cors_allow_origin: str = ""
    """Whose pages may call the API from a browser: an origin, or `*`."""


class ApiSettings(WebSettings):
    """Settings of the function `api`."""

    schedule_rule_name: str = ""
    stack_id: str = ""
    """CloudFormation's id of the stack: a stack that is made anew has another one."""


class ControlSettings(WebSettings, SourceSettings, ResumptionSettings):
    """Settings of the function `control`."""

    state_machine_arn: str
    uploads_bucket: str = ""
    upload_max_bytes: int = Field(default=5 * 1024**3, ge=1, le=5 * 1024**3)
    """The most that a presigned form takes; S3's own limit for a form is 5 GiB."""
