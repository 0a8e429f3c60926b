"""The diagram of the state machine: complete, up to date, and honest about what it can't draw."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from local import diagrams
from local.errors import LocalError
from local.settings import ROOT

TEXT = diagrams.DEFINITION.read_text("utf-8")


def _machines(machine: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield machine
    for state in machine["States"].values():
        if "ItemProcessor" in state:
            yield from _machines(state["ItemProcessor"])


def test_the_document_has_the_diagram_of_what_is_deployed() -> None:
    document = diagrams.DOCUMENT.read_text("utf-8")
    made = diagrams.flowchart(diagrams.definition(TEXT))
    assert document == diagrams.render(document, made), "run: make diagrams"


def test_every_state_and_every_way_is_drawn() -> None:
    drawn = diagrams.flowchart(diagrams.definition(TEXT))
    for machine in _machines(diagrams.definition(TEXT)):
        assert re.search(rf"Starts\(\(start\)\) --> {machine['StartAt']}$", drawn, re.MULTILINE)
        for name, state in machine["States"].items():
            assert re.search(rf"^ *(subgraph )?{name}\W*\"{name}", drawn, re.MULTILINE)
            targets = [*state.get("Choices", []), *state.get("Catch", []), state]
            ways = [one["Next"] for one in targets if "Next" in one]
            ways += [state["Default"]] if "Default" in state else []
            found = re.findall(rf"^ *{name} (?:--|-\.).*> (\w+)$", drawn, re.MULTILINE)
            assert sorted(found) == sorted(ways)


def test_functions_are_named_by_their_folders() -> None:
    drawn = diagrams.flowchart(diagrams.definition(TEXT))
    names = set(re.findall(r"<br/>([\w&;]+)<br/>", drawn))
    folders = {path.name for path in (ROOT / "functions").iterdir()}
    assert names - folders == {"extract_&lt;source&gt;"}


def test_a_diagram_of_a_small_machine() -> None:
    machine = {
        "StartAt": "Look",
        "States": {
            "Look": {
                "Type": "Choice",
                "Choices": [
                    {
                        "Or": [
                            {"Variable": "$.a", "BooleanEquals": False},
                            {"Variable": "$.b", "NumericGreaterThan": 3},
                        ],
                        "Next": "Rest",
                    }
                ],
                "Default": "Done",
            },
            "Rest": {"Type": "Wait", "Seconds": 1, "Next": "Done"},
            "Done": {"Type": "Succeed"},
        },
    }
    assert diagrams.flowchart(machine).splitlines() == [
        "flowchart TB",
        "  RunStarts((start)) --> Look",
        '  Look{"Look"}',
        '  Rest{{"Rest"}}',
        '  Done(["Done"])',
        '  Look -- "a is false or b is more than 3" --> Rest',
        '  Look -- "else" --> Done',
        "  Rest --> Done",
    ]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"Type": "Parallel", "End": True}, "its type is Parallel"),
        (
            {"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": True, "Next": "Odd"}]},
            "IsNull",
        ),
        ({"Type": "Task", "Parameters": {"FunctionName.$": "$.f"}, "End": True}, "'$.f'"),
    ],
)
def test_what_it_can_not_draw_is_said(state: dict[str, Any], told: str) -> None:
    with pytest.raises(LocalError, match=re.escape(told)):
        diagrams.flowchart({"StartAt": "Odd", "States": {"Odd": state}})


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(LocalError, match="has lost its markers"):
        diagrams.render("# Architecture\n", "flowchart TB\n")
