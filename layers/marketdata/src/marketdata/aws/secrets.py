"""AWS Secrets Manager."""

from __future__ import annotations

import json

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from marketdata.errors import SettingsError, TransientError

_CONFIG = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard"})


def read_secret(secret_id: str) -> dict[str, str]:
    """A secret that is a JSON object of texts.

    Raises:
        SettingsError: it does not exist, may not be read, or is something else.
        TransientError: Secrets Manager does not answer.
    """
    client = boto3.client("secretsmanager", config=_CONFIG)
    try:
        text = client.get_secret_value(SecretId=secret_id)["SecretString"]
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("ThrottlingException", "InternalServiceError", "ServiceUnavailable"):
            raise TransientError(f"Secrets Manager is busy: {error}") from error
        raise SettingsError(
            f"The secret {secret_id} can't be read ({code}). Check SECRET_ID and the function's "
            "permission secretsmanager:GetSecretValue."
        ) from error
    except BotoCoreError as error:
        raise TransientError(f"Secrets Manager does not answer: {error}") from error
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise SettingsError(
            f"The secret {secret_id} must be a JSON object such as "
            '{"mongodb_uri": "...", "refresh_token": "..."}.'
        )
    return {str(name): str(value) for name, value in values.items() if value is not None}
