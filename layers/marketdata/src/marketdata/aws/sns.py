"""Amazon SNS: the topic that alerts go to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from marketdata.errors import TerminalError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient

_SUBJECT_CHARACTERS = 99
"""SNS takes fewer than 100, in ASCII and on one line."""


_FINAL = frozenset({"InvalidParameter", "NotFound", "AuthorizationError"})
"""Codes of errors that come again, however often the alert is sent."""


class Topic:
    """One topic; it is a `runs.alerts.Notifier`."""

    def __init__(self, arn: str) -> None:
        self._arn = arn

    @cached_property
    def _client(self) -> SNSClient:
        # Imported here: most runs have no alert to send, and boto3 costs a third of a second.
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        # Two alerts that can't be sent must leave time for ending the run.
        config = Config(
            connect_timeout=2,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": 2},
        )
        return boto3.client("sns", config=config)

    def publish(self, subject: str, text: str, attributes: Mapping[str, str]) -> str:
        """See `runs.alerts.Notifier`."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        line = " ".join(subject.encode("ascii", "replace").decode().split())
        try:
            answer = self._client.publish(
                TopicArn=self._arn,
                Subject=line[:_SUBJECT_CHARACTERS],
                Message=text,
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value}
                    for name, value in attributes.items()
                },
            )
        except (BotoCoreError, ClientError) as error:
            answered = error.response if isinstance(error, ClientError) else {}
            if answered.get("Error", {}).get("Code") in _FINAL:
                raise TerminalError(
                    f"The alert {line!r} was refused by {self._arn}: {error}. It is kept in the "
                    "collection alerts and not sent again; see to the topic and to the function's "
                    "right to publish."
                ) from error
            raise TransientError(
                f"The alert {line!r} could not be sent to {self._arn}: {error}. It is kept and "
                "sent with the next one."
            ) from error
        return answer["MessageId"]
