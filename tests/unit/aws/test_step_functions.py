"""Errors of Step Functions, told apart: try again, or say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError
from botocore.stub import Stubber

from marketdata.aws.step_functions import StepFunctions
from marketdata.errors import SettingsError, TransientError
from marketdata.web.problems import problem
from tests.support.stubs import stubbed_client

ARN = "arn:aws:states:us-east-1:000000000000:stateMachine:ingest"


@pytest.fixture
def stubbed() -> Iterator[tuple[StepFunctions, Stubber]]:
    engine = StepFunctions(ARN)
    with stubbed_client(engine, "stepfunctions") as stubber:
        yield engine, stubber


@pytest.mark.parametrize(
    ("code", "status", "error", "says"),
    [
        ("AccessDeniedException", 400, SettingsError, "states:StartExecution"),
        ("AccessDenied", 403, SettingsError, "states:StartExecution"),
        ("KmsAccessDeniedException", 400, SettingsError, "KMS key"),
        ("StateMachineDoesNotExist", 400, SettingsError, "STATE_MACHINE_ARN"),
        ("StateMachineDeleting", 400, SettingsError, "STATE_MACHINE_ARN"),
        ("InvalidArn", 400, SettingsError, "STATE_MACHINE_ARN"),
        ("UnrecognizedClientException", 400, SettingsError, "execution role"),
        ("ExpiredTokenException", 400, TransientError, "Try again"),
        ("ThrottlingException", 400, TransientError, "Try again"),
        ("ExecutionLimitExceeded", 400, TransientError, "Try again"),
        ("KmsThrottlingException", 400, TransientError, "Try again"),
        ("ServiceUnavailable", 503, TransientError, "Try again"),
    ],
)
def test_an_error_says_whether_trying_again_helps(
    stubbed: tuple[StepFunctions, Stubber],
    code: str,
    status: int,
    error: type[Exception],
    says: str,
) -> None:
    engine, stubber = stubbed
    stubber.add_client_error("start_execution", code, http_status_code=status)

    with pytest.raises(error, match=says) as raised:
        engine.start("a-run", {})
    assert type(raised.value) is error
    assert "Run a-run" in str(raised.value)
    assert ("Try again" in str(raised.value)) == (error is TransientError)


def test_what_is_refused_before_it_is_sent_is_a_setting(
    stubbed: tuple[StepFunctions, Stubber], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = stubbed

    def refuse(**_: Any) -> None:
        raise NoCredentialsError

    monkeypatch.setattr(engine._client, "start_execution", refuse)
    with pytest.raises(SettingsError, match=r"NoCredentialsError.*execution role"):
        engine.start("a-run", {})


def test_a_client_learns_that_trying_again_does_not_help(
    stubbed: tuple[StepFunctions, Stubber],
) -> None:
    engine, stubber = stubbed
    stubber.add_client_error("start_execution", "StateMachineDoesNotExist")
    with pytest.raises(SettingsError) as raised:
        engine.start("a-run", {})
    answer = problem(raised.value)
    assert (answer.status, answer.code) == (500, "settings")
    assert "STATE_MACHINE_ARN" not in answer.message
