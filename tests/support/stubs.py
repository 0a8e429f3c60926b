"""AWS's answers by script, in the place of an adapter's own client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.stub import Stubber


@contextmanager
def stubbed_client(adapter: Any, service: str) -> Iterator[Stubber]:
    """Give an adapter, which makes its `_client` when it first needs it, one that is scripted."""
    client = boto3.client(  # type: ignore[call-overload] # any of them
        service,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    adapter.__dict__["_client"] = client
    with Stubber(client) as stubber:
        yield stubber
    client.close()
