"""The state machine's definition has the words of what the functions hand to it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from marketdata.runs.extraction.outcome import Extracted, ExtractionState
from marketdata.runs.opening import OpenedInput
from tests.support.functions import load_handler
from tests.support.machine import definition

type State = dict[str, Any]

OTHERWISE = {
    "Extracted": {
        ExtractionState.UNFINISHED,
        # Without a wait; there is a choice for one with a wait.
        ExtractionState.THROTTLED,
        ExtractionState.EXTRACTED,
        ExtractionState.SKIPPED,
        ExtractionState.WAITING,
        ExtractionState.FAILED,
        ExtractionState.CANCELLED,
        ExtractionState.HANDED_OVER,
    },
    "Loaded": {
        ExtractionState.EXTRACTED,
        ExtractionState.FAILED,
        ExtractionState.CANCELLED,
        ExtractionState.HANDED_OVER,
    },
}
"""By choice: the states of an extraction that its `Default` is for."""

NOT_HERE = {"Extracted": {ExtractionState.BROKEN_OFF}, "Loaded": {ExtractionState.AGAIN}}
"""By choice: the states of an extraction that never come to it."""


def all_states(machine: State) -> dict[str, State]:
    """All states of a state machine, those of its maps included."""
    found: dict[str, State] = dict(machine["States"])
    for state in machine["States"].values():
        if state["Type"] == "Map":
            found |= all_states(state["ItemProcessor"])
    return found


STATES = all_states(definition())
CHOICES = sorted(
    name
    for name, state in STATES.items()
    if state["Type"] == "Choice" and "$.extract.state" in json.dumps(state)
)


def conditions(choice: State) -> Iterator[State]:
    """The comparisons of a choice, those of its conjunctions included."""
    if "Variable" in choice:
        yield choice
    for junction in ("And", "Or"):
        for one in choice.get(junction, ()):
            yield from conditions(one)


def matched(choice: str) -> set[str]:
    """The states of an extraction that a choice names."""
    return {
        condition["StringEquals"]
        for rule in STATES[choice]["Choices"]
        for condition in conditions(rule)
        if condition["Variable"] == "$.extract.state"
    }


def paths(value: Any) -> Iterator[str]:
    """Every path that a part of the definition follows."""
    if isinstance(value, dict):
        for one in value.values():
            yield from paths(one)
    elif isinstance(value, list):
        for one in value:
            yield from paths(one)
    elif isinstance(value, str):
        yield from re.findall(r"(?<!\$)\$(?:\.\w+)+", value)


def test_choices_by_the_state_of_an_extraction_are_known() -> None:
    assert OTHERWISE.keys() == NOT_HERE.keys() == set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_state_that_a_choice_names_can_be_handed_over(choice: str) -> None:
    assert matched(choice) <= set(ExtractionState)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_state_that_can_be_handed_over_is_dealt_with(choice: str) -> None:
    named = matched(choice)
    assert named | OTHERWISE[choice] | NOT_HERE[choice] == set(ExtractionState)
    assert not NOT_HERE[choice] & (named | OTHERWISE[choice])


# --- fields ---------------------------------------------------------------------------------------


def answer(function: str) -> set[str]:
    """The fields of what a function answers, as its handler declares it."""
    if function.startswith("extract_"):
        return {field.name for field in fields(Extracted)}
    handler = load_handler(function)
    answered = get_type_hints(inspect.unwrap(handler))["return"]
    return set(get_type_hints(answered))


def function_of(task: State) -> str:
    given = task["Parameters"]
    return str(given.get("FunctionName", "extract_csv"))


def first_names(states: Mapping[str, State]) -> set[str]:
    """What states read of their input; what they or their siblings add to it is left out."""
    read = {
        path.split(".")[1]
        for state in states.values()
        for key, value in state.items()
        if key not in ("ResultSelector", "OutputPath", "ItemProcessor")
        for path in paths(without_result_paths(value))
    }
    added = {
        str(path).removeprefix("$.")
        for state in states.values()
        for path in [
            state.get("ResultPath"),
            *(c.get("ResultPath") for c in state.get("Catch", ())),
        ]
        if path is not None
    }
    return read - added


def without_result_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [without_result_paths(one) for one in value]
    if isinstance(value, dict):
        return {name: one for name, one in value.items() if name != "ResultPath"}
    return value


SELECTING = sorted(name for name, state in STATES.items() if "ResultSelector" in state)


@pytest.mark.parametrize("name", SELECTING)
def test_fields_that_a_step_takes_of_an_answer_are_in_it(name: str) -> None:
    task = STATES[name]
    taken = set(re.findall(r"\$\.Payload\.(\w+)", json.dumps(task["ResultSelector"])))
    assert taken
    assert taken <= answer(function_of(task))


def test_fields_that_steps_read_of_an_extraction_are_selected() -> None:
    read = {path for state in STATES.values() for path in paths(state) if "$.extract." in path}
    assert read == {"$.extract.state", "$.extract.numbers", "$.extract.wait_seconds"}
    selected = STATES["Extract"]["ResultSelector"]
    assert {f"$.extract.{name.removesuffix('.$')}" for name in selected} == read
    # It goes past the choice that looks at the time to wait.
    failed = STATES["ExtractionFailed"]
    assert (failed["Next"], set(failed["ResultSelector"])) == ("Batches", {"state", "numbers.$"})
    assert failed["ResultSelector"]["state"] == ExtractionState.BROKEN_OFF


def test_fields_that_steps_read_of_an_opened_run_are_in_it() -> None:
    outer = definition()["States"]
    opening = {"OpenRun", "CloseUnopened", "NotOpened"}
    after = {name: state for name, state in outer.items() if name not in opening}
    assert first_names(after) == {"run_id", "proceed", "inputs"} == answer("open_run")
    of_input = outer["Inputs"]["ItemProcessor"]["States"]
    assert (
        first_names(of_input) == {"run_id", "input", "source"} == set(get_type_hints(OpenedInput))
    )
