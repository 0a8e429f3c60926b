"""AWS Step Functions: the engine that carries runs out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from marketdata.aws import refusals
from marketdata.errors import SettingsError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

_CONFIG = Config(
    connect_timeout=2, read_timeout=6, retries={"mode": "standard", "total_max_attempts": 2}
)
"""Silence is given up while the function, which has 29 s, can still say so."""

_PERMISSION = (
    "Give the function's role the permission states:StartExecution on the state machine, and, if "
    "that is encrypted with a KMS key, the use of the key."
)
_ARN = "Set STATE_MACHINE_ARN to the ARN of the stack's state machine, and deploy."
_REFUSALS = refusals.ANYWHERE | {
    "AccessDenied": _PERMISSION,
    "AccessDeniedException": _PERMISSION,
    "KmsAccessDeniedException": _PERMISSION,
    "KmsInvalidStateException": "Enable the KMS key that the state machine is encrypted with.",
    "InvalidArn": _ARN,
    "ParamValidationError": _ARN,
    "StateMachineDeleting": _ARN,
    "StateMachineDoesNotExist": _ARN,
    "ValidationException": _ARN,
}
"""What comes again until somebody acts, with the remedy."""


class StepFunctions:
    """Starts executions of one state machine."""

    def __init__(self, state_machine_arn: str) -> None:
        self._arn = state_machine_arn

    @cached_property
    def _client(self) -> SFNClient:
        return boto3.client("stepfunctions", config=_CONFIG)

    def start(self, run_id: str, execution_input: Mapping[str, Any]) -> str:
        """See `runs.starting.WorkflowStarter`: the execution's name is the run's id.

        Raises:
            SettingsError: this function may not start it, or there is no such state machine.
            TransientError: Step Functions did not answer, or is busy.
        """
        try:
            answer = self._client.start_execution(
                stateMachineArn=self._arn, name=run_id, input=json.dumps(dict(execution_input))
            )
        except (BotoCoreError, ClientError) as error:
            code = refusals.code_of(error)
            if remedy := _REFUSALS.get(code):
                raise SettingsError(
                    f"Run {run_id} was not started: Step Functions refuses ({code}). {remedy} "
                    "Trying again does not help before.",
                    aws_code=code,
                ) from error
            raise TransientError(
                f"Run {run_id} could not be started by Step Functions: {error}. Try again."
            ) from error
        return answer["executionArn"]
