"""The state machine without Step Functions: its definition, interpreted in this process.

What a function is, the caller says: `invoke` is given a function's name and its event, and answers
or raises `FunctionFailed`, as Lambda does. It knows the fields that the definition uses, and says
so of any other one.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from local.parameters import read_parameters
from local.settings import ROOT

DEFINITION = ROOT / "statemachines" / "ingest.asl.json"

type Json = Any
type Invoke = Callable[[str, Json], Json]


class FunctionFailed(Exception):
    """A function's error, as Step Functions knows it: its name and its cause."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}")
        self.error = error
        self.cause = json.dumps({"errorType": error, "errorMessage": message})


class Aborted(Exception):
    """The execution was stopped from outside."""


class NotInterpreted(Exception):
    """The definition uses what this interpreter does not know, and would carry out wrongly."""

    def __init__(self, feature: str, state: str = "") -> None:
        where = f"State {state!r} has" if state else "A state has"
        super().__init__(
            f"{where} {feature}, which the interpreter of the tests does not know. Teach it that "
            f"in {__name__}, as Step Functions does it."
        )
        self.feature = feature
        self.state = state


def definition(text: str | None = None) -> Json:
    """The definition with what the template puts into it; functions go by their folders' names."""
    parameters = read_parameters(ROOT / "template.yaml")

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "FunctionPrefix":
            return ""
        if name.endswith("Function"):
            return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Function")).lower()
        return str(parameters[name].default)

    return json.loads(re.sub(r"\$\{(\w+)\}", value, text or DEFINITION.read_text("utf-8")))


@dataclass
class Machine:
    """Carries out executions.

    Attributes:
        invoke: runs a function.
        patience: by how much intervals between retries are multiplied; real time is 1.
        waiting: by how much a `Wait` is.
        concurrency: the most children of a map at once, however many its definition allows.
    """

    invoke: Invoke
    patience: float = 0.02
    waiting: float = 1
    concurrency: int = 4
    seed: int = 0

    def execute(
        self, given: Json, *, execution: str, aborted: threading.Event | None = None
    ) -> Json:
        """One execution; its output.

        Raises:
            FunctionFailed: it failed.
            Aborted: `aborted` was set.
        """
        run = _Execution(self, execution, aborted or threading.Event(), random.Random(self.seed))
        return run.states(definition(), given, {})


@dataclass
class _Execution:
    machine: Machine
    id: str
    aborted: threading.Event
    chance: random.Random

    def states(self, machine: Mapping[str, Json], given: Json, context: Json) -> Json:
        """From a state machine's first state, or a map's, to its end."""
        name, data = machine["StartAt"], given
        while True:
            if self.aborted.is_set():
                raise Aborted(name)
            try:
                following, data = self._step(dict(machine["States"][name]), data, context)
            except NotInterpreted as unknown:
                raise NotInterpreted(unknown.feature, unknown.state or name) from None
            if following is None:
                return data
            name = following

    def _step(self, state: dict[str, Json], data: Json, context: Json) -> tuple[str | None, Json]:
        """One state; the name of the next one, None at the end, and what it is given."""
        kind = state.pop("Type")
        state.pop("Comment", None)
        if kind == "Succeed":
            return None, data
        if kind == "Fail":
            failure = FunctionFailed(str(_get(data, state["ErrorPath"])), "")
            failure.cause = str(_get(data, state["CausePath"]))
            raise failure
        if kind == "Choice":
            return _choose(state["Choices"], data) or state["Default"], data
        following, ends = state.pop("Next", None), state.pop("End", False)
        try:
            data = self._state(kind, state, data, context)
        except FunctionFailed as failure:
            catcher = _matching(state.get("Catch", ()), failure.error)
            if catcher is None:
                raise
            caught = {"Error": failure.error, "Cause": failure.cause}
            return catcher["Next"], _put(data, catcher.get("ResultPath", "$"), caught)
        return (None if ends else following), data

    def _state(self, kind: str, state: dict[str, Json], data: Json, context: Json) -> Json:
        match kind:
            case "Task":
                return self._with_retries(state, data, context, self._task)
            case "Map":
                return self._with_retries(state, data, context, self._map)
            case "Pass":
                made = (
                    self._fill(state["Parameters"], data, context)
                    if "Parameters" in state
                    else data
                )
                return _put(data, state.get("ResultPath", "$"), state.get("Result", made))
            case "Wait":
                seconds = state.get("Seconds") or _get(data, state["SecondsPath"])
                if self.aborted.wait(seconds * self.machine.waiting):
                    raise Aborted("Wait")
                return data
        raise NotInterpreted(f"the type {kind}")

    def _with_retries(
        self,
        state: dict[str, Json],
        data: Json,
        context: Json,
        work: Callable[[dict[str, Json], Json, Json], Json],
    ) -> Json:
        tried = [0] * len(state.get("Retry", ()))
        while True:
            try:
                result = work(state, data, context)
            except FunctionFailed as failure:
                retriers = state.get("Retry", ())
                retrier = _matching(retriers, failure.error)
                if retrier is None:
                    raise
                index = retriers.index(retrier)
                if tried[index] >= retrier.get("MaxAttempts", 3):
                    raise
                seconds = min(
                    retrier.get("IntervalSeconds", 1)
                    * retrier.get("BackoffRate", 2) ** tried[index],
                    retrier.get("MaxDelaySeconds", 3600),
                )
                tried[index] += 1
                if self.aborted.wait(self.chance.random() * seconds * self.machine.patience):
                    raise Aborted("Retry") from failure
                continue
            if "ResultSelector" in state:
                result = self._fill(state["ResultSelector"], result, context)
            data = _put(data, state.get("ResultPath", "$"), result)
            return _get(data, state.get("OutputPath", "$"))

    def _task(self, state: dict[str, Json], data: Json, context: Json) -> Json:
        if state["Resource"] != "arn:aws:states:::lambda:invoke":
            raise NotInterpreted(f"the resource {state['Resource']}")
        call = self._fill(state["Parameters"], data, context)
        # As Lambda's answer; a payload is JSON there, and so it is here.
        payload = self.machine.invoke(call["FunctionName"], json.loads(json.dumps(call["Payload"])))
        return {"StatusCode": 200, "Payload": json.loads(json.dumps(payload))}

    def _map(self, state: dict[str, Json], data: Json, _context: Json) -> Json:
        items = _get(data, state.get("ItemsPath", "$"))
        tolerated = state.get("ToleratedFailurePercentage", 0)
        most = min(state.get("MaxConcurrency", 0) or 1000, self.machine.concurrency)

        def child(numbered: tuple[int, Json]) -> Json:
            index, value = numbered
            inside = {"Map": {"Item": {"Index": index, "Value": value}}}
            given = value
            if selector := state.get("ItemSelector") or state.get("Parameters"):
                given = self._fill(selector, data, inside)
            return self.states(state["ItemProcessor"], given, inside)

        with ThreadPoolExecutor(most) as pool:
            children = [pool.submit(child, each) for each in enumerate(items)]
        failures = [error for each in children if (error := each.exception()) is not None]
        for error in failures:
            if not isinstance(error, FunctionFailed):
                raise error
        if failures and 100 * len(failures) > tolerated * len(children):
            raise failures[0]
        return [each.result() for each in children if each.exception() is None]

    def _fill(self, template: Json, data: Json, context: Json) -> Json:
        """A template of `Parameters` and the like, with its paths followed."""
        if isinstance(template, list):
            return [self._fill(each, data, context) for each in template]
        if not isinstance(template, dict):
            return template
        filled = {}
        for name, value in template.items():
            if name.endswith(".$"):
                filled[name[:-2]] = self._path(value, data, context)
            else:
                filled[name] = self._fill(value, data, context)
        return filled

    def _path(self, path: str, data: Json, context: Json) -> Json:
        if path.startswith("States.Format("):
            form, *arguments = re.findall(r"'[^']*'|\$[\w.$]*", path)
            values = [self._path(argument, data, context) for argument in arguments]
            return form.strip("'").format(*values)
        if path.startswith("$$"):
            known = {"Execution": {"Id": self.id, "Name": self.id.rpartition(":")[2]}, **context}
            return _get(known, path[1:])
        return _get(data, path)


def _get(data: Json, path: str | None) -> Json:
    if path is None:
        return {}
    for name in path.removeprefix("$").split("."):
        if name:
            # A path that leads nowhere fails an execution.
            try:
                data = data[name]
            except (KeyError, TypeError):
                raise FunctionFailed("States.Runtime", f"there is no {path}") from None
    return data


def _put(data: Json, path: str | None, value: Json) -> Json:
    if path is None:
        return data
    if path == "$":
        return value
    name = path.removeprefix("$.")
    if "." in name:
        raise NotInterpreted(f"the ResultPath {path} of more than one name")
    return {**data, name: value}


_UNCAUGHT = ("States.Runtime", "States.DataLimitExceeded")
"""What States.ALL does not stand for.

Source: AWS Step Functions Developer Guide, "Handling errors in Step Functions workflows".
"""


def _matching(rules: Sequence[Mapping[str, Json]], error: str) -> Mapping[str, Json] | None:
    for rule in rules:
        names = rule["ErrorEquals"]
        if error in names or ("States.ALL" in names and error not in _UNCAUGHT):
            return rule
        if "States.TaskFailed" in names and error != "States.Timeout":
            return rule
    return None


def _choose(choices: Sequence[Mapping[str, Json]], data: Json) -> str | None:
    for choice in choices:
        if _holds(choice, data):
            return str(choice["Next"])
    return None


_TESTS: dict[str, Callable[[Json, Json], bool]] = {
    "StringEquals": lambda value, given: value == given,
    "BooleanEquals": lambda value, given: value is given,
    "NumericEquals": lambda value, given: value == given,
    "NumericGreaterThan": lambda value, given: value > given,
    "NumericGreaterThanEquals": lambda value, given: value >= given,
    "NumericLessThan": lambda value, given: value < given,
}


def _holds(rule: Mapping[str, Json], data: Json) -> bool:
    if "And" in rule:
        return all(_holds(each, data) for each in rule["And"])
    if "Or" in rule:
        return any(_holds(each, data) for each in rule["Or"])
    if "Not" in rule:
        return not _holds(rule["Not"], data)
    (test,) = rule.keys() - {"Variable", "Next", "Comment"}
    if test == "IsPresent":
        try:
            _get(data, rule["Variable"])
        except FunctionFailed:
            return not rule[test]
        return bool(rule[test])
    if test not in _TESTS:
        raise NotInterpreted(f"the comparison {test}")
    return _TESTS[test](_get(data, rule["Variable"]), rule[test])
