"""First step of an execution: which run this is, and what it has to do."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from marketdata import bootstrap
from marketdata.aws.s3_objects import S3Objects
from marketdata.aws.step_functions import StepFunctions
from marketdata.handlers.tasks import task
from marketdata.runs import opening
from marketdata.runs.opening import OpenedRun
from marketdata.runs.resuming import ResumptionSettings
from marketdata.settings import SourceSettings, UploadSettings, WorkflowSettings, read_settings

SETTINGS = read_settings(SourceSettings)
RESUMPTION = read_settings(ResumptionSettings)
_BUCKET = read_settings(UploadSettings).uploads_bucket
_MACHINE = read_settings(WorkflowSettings).state_machine_arn
STARTER = StepFunctions(_MACHINE) if _MACHINE else None
UPLOADS = S3Objects(_BUCKET) if _BUCKET else None


@task("open_run")
def handler(event: dict[str, Any], _context: LambdaContext) -> OpenedRun:
    """`{event: the execution's input, execution: ARN}` in; what the execution has to do out."""
    return opening.open_run(
        bootstrap.store(),
        event["event"],
        event["execution"],
        SETTINGS.names(),
        UPLOADS,
        starter=STARTER,
        most_resumptions=RESUMPTION.batch_max_resumptions,
    )
