"""The import budget: what a function must not load at its start, since start-up time is paid for.

Looked at by name, in a process of its own, as time would depend on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

FUNCTIONS = Path(__file__).resolve().parents[3] / "functions"

# Powertools imports the bare package `botocore`, which is small; its session is not.
AWS = frozenset({"boto3", "botocore.session", "s3transfer"})
HTTP = frozenset({"requests", "urllib3", "tenacity"})
TRACING = frozenset({"aws_xray_sdk"})
MATCHING = frozenset({"rapidfuzz"})
REST = frozenset({"aws_lambda_powertools.event_handler"})

BUDGETS = {
    # Lists the uploads, but asks no source.
    "open_run": TRACING | MATCHING | REST | {"requests", "tenacity"},
    # Reads S3, and nothing else of HTTP.
    "extract_csv": TRACING | REST | {"requests", "tenacity"},
    "normalize_load": AWS | HTTP | TRACING | MATCHING | REST,
    "close_run": AWS | HTTP | TRACING | MATCHING | REST,
    "note_failure": AWS | HTTP | TRACING | MATCHING | REST,
    "opening_failed": AWS | HTTP | TRACING | MATCHING | REST,
    "execution_ended": AWS | HTTP | TRACING | MATCHING | REST,
    "api": AWS | HTTP | TRACING | MATCHING,
    # Starts executions and signs uploads, but asks no source.
    "control": TRACING | MATCHING | {"requests", "tenacity"},
}
"""For each function, what it must not import. A new function states its budget here."""

EXTRACTOR = AWS | TRACING | MATCHING | REST
"""The budget of every other `extract_...`: those of the API sources."""

ENVIRONMENT = {
    "PATH": "",
    "STATE_MACHINE_ARN": "arn:aws:states:us-east-1:000000000000:stateMachine:x",
    "UPLOADS_BUCKET": "uploads",
    "AWS_DEFAULT_REGION": "us-east-1",
    # As Lambda sets it; without it Powertools would not find its service's name.
    "POWERTOOLS_SERVICE_NAME": "marketdata",
}

_LIST = """
import json, sys
sys.path.insert(0, sys.argv[1])
import app
assert callable(app.handler)
print(json.dumps(sorted(sys.modules)))
"""


@cache
def loaded(function: str) -> frozenset[str]:
    """The modules that are there once the handler's module is imported."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _LIST, str(FUNCTIONS / function)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return frozenset(json.loads(result.stdout.splitlines()[-1]))


def functions() -> list[str]:
    return sorted(path.parent.name for path in FUNCTIONS.glob("*/app.py"))


@pytest.mark.parametrize("function", functions())
def test_a_function_keeps_to_its_import_budget(function: str) -> None:
    budget = BUDGETS.get(function, EXTRACTOR if function.startswith("extract_") else None)
    assert budget is not None, f"state in BUDGETS what {function} must not import"
    over = loaded(function) & budget
    assert not over, f"{function} imports {sorted(over)} at its start: import it where it is used"


@pytest.mark.parametrize("function", [f for f in functions() if f.startswith("extract_coin")])
def test_an_extractor_asks_over_http(function: str) -> None:
    # Else the budgets above would be kept by names that nobody uses.
    assert loaded(function) >= {"requests", "tenacity", "pymongo"}


def test_the_library_s_pure_parts_know_nothing_of_the_database_or_aws() -> None:
    code = (
        "import json, sys, marketdata.schema.record, marketdata.schema.identity, "
        "marketdata.sources.coingecko, marketdata.sources.json_stream\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"pymongo", "bson", "boto3", "requests"} & set(json.loads(result.stdout))
