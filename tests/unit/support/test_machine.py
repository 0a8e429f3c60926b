"""The interpreter of the state machine's language refuses what it does not know."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import machine
from tests.support.machine import Machine, NotInterpreted

LAMBDA = "arn:aws:states:::lambda:invoke"


def _task(**fields: Any) -> dict[str, Any]:
    call = {"FunctionName": "f", "Payload": {}}
    return {"Type": "Task", "Resource": LAMBDA, "Parameters": call, "End": True, **fields}


@pytest.mark.parametrize(
    ("state", "feature"),
    [
        ({"Type": "Parallel", "End": True}, "the type Parallel"),
        (_task(Resource="arn:aws:states:::sqs:sendMessage"), "sqs:sendMessage"),
        (_task(ResultPath="$.a.b"), "the ResultPath $.a.b"),
        (
            {"Type": "Choice", "Choices": [{"Variable": "$", "StringMatches": "a*", "Next": "x"}]},
            "the comparison StringMatches",
        ),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a map"])
def test_the_state_and_what_it_wants_are_named(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], feature: str, inside: bool
) -> None:
    only = {"StartAt": "Odd one", "States": {"Odd one": state}}
    around = {
        "StartAt": "All",
        "States": {"All": {"Type": "Map", "ItemProcessor": only, "End": True}},
    }
    monkeypatch.setattr(machine, "definition", lambda: around if inside else only)
    with pytest.raises(NotInterpreted) as raised:
        Machine(lambda _name, _event: None).execute([{}], execution="one")
    assert "State 'Odd one' has" in str(raised.value)
    assert feature in str(raised.value)
