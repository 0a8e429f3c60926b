"""The document against the service again, this time through API Gateway and Lambda."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from local.settings import ROOT
from tests.support.stack import StackUnderTest

SCHEMA = schemathesis.openapi.from_path(ROOT / "docs" / "openapi.json")
# Replaced by the stack's address in each call; "./", as the document says, is no base by itself.
SCHEMA.config.update(base_url="http://localhost")

LONGEST_REQUEST = 10_240
"""Bytes of request line and headers that API Gateway takes; with more, LocalStack hangs up.

See "Amazon API Gateway quotas": total combined size of request line and header values.
"""


@pytest.mark.timeout(300)
@SCHEMA.parametrize()
@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_the_document_says(
    case: schemathesis.Case[Any], stack: StackUnderTest
) -> None:
    if case.headers and case.headers.get("Content-Type") == "multipart/form-data":
        # Without a boundary; LocalStack's own gateway fails at it, before any function is asked.
        return
    if len(case.as_curl_command(base_url=stack.api_url)) > LONGEST_REQUEST:
        return
    # Asks with TRACE, which API Gateway answers by itself and passes on to no function.
    excluded = [unsupported_method]
    if case.operation.path == "/backfills":
        # No schema can say which assets are known, or what a source's plan gives.
        excluded.append(positive_data_acceptance)
    case.call_and_validate(
        base_url=stack.api_url,
        headers={"Authorization": f"Bearer {stack.token}"},
        excluded_checks=excluded,
    )
