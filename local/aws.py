"""AWS's services as the LocalStack of a stack that is up has them."""

from collections.abc import Mapping
from typing import Any, TypedDict

from botocore.config import Config

from local.deploy import CREDENTIALS


class ClientOptions(TypedDict):
    """What ``boto3.client`` is called with, besides the service's name."""

    endpoint_url: str
    region_name: str
    aws_access_key_id: str
    aws_secret_access_key: str
    config: Config


def client_options(stack: Mapping[str, Any]) -> ClientOptions:
    """Return the options of a client for a stack.

    Args:
        stack: what its ``stack.json`` says.
    """
    return {
        "endpoint_url": str(stack["aws_endpoint_url"]),
        "region_name": str(stack["region"]),
        "aws_access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        "config": Config(connect_timeout=2, read_timeout=30),
    }
