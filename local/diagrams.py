"""``python -m local.diagrams``: draw the state machine into ``docs/architecture.md``.

The diagram is a Mermaid flowchart, made of the definition that is deployed. A test fails when the
document has another one.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from local.errors import LocalError
from local.settings import ROOT

type State = Mapping[str, Any]

DEFINITION = ROOT / "statemachines" / "ingest.asl.json"
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- generated from statemachines/ingest.asl.json by `make diagrams` -->\n"
END = "<!-- end of what is generated -->\n"

_COMPARISONS = {
    "StringEquals": "is",
    "BooleanEquals": "is",
    "NumericEquals": "is",
    "NumericGreaterThan": "is more than",
    "NumericLessThan": "is less than",
}
_LAST = ("([", "])")
_SHAPES = {
    "Task": ("[", "]"),
    "Choice": ("{", "}"),
    "Wait": ("{{", "}}"),
    "Pass": ("(", ")"),
    "Succeed": _LAST,
    "Fail": _LAST,
}


def definition(text: str) -> dict[str, Any]:
    """Parse a definition.

    Args:
        text: JSON in which CloudFormation's ``${Name}`` may stand for a number, too.
    """
    quoted = re.sub(r":\s*(\$\{\w+\})", r': "\1"', text)
    parsed: dict[str, Any] = json.loads(quoted)
    return parsed


def flowchart(machine: Mapping[str, Any]) -> str:
    """Draw a state machine as a Mermaid flowchart.

    Raises:
        LocalError: it has a state or a condition that this can't draw.
    """
    lines = ["flowchart TB", *_states(machine, "Run", "  ")]
    return "\n".join(lines) + "\n"


def _states(machine: Mapping[str, Any], of: str, indent: str) -> Iterator[str]:
    states: Mapping[str, State] = machine["States"]
    yield f"{indent}{of}Starts((start)) --> {machine['StartAt']}"
    for name, state in states.items():
        if state["Type"] == "Map":
            yield f'{indent}subgraph {name}["{name}: {_extent(state)}"]'
            yield f"{indent}  direction TB"
            yield from _states(state["ItemProcessor"], name, indent + "  ")
            yield f"{indent}end"
        else:
            yield indent + _node(name, state)
    for name, state in states.items():
        for label, target in _ways(name, state):
            arrow = f'-- "{label}" -->' if label else "-->"
            yield f"{indent}{name} {arrow} {target}"
        for catch in state.get("Catch", []):
            errors = " or ".join(catch["ErrorEquals"]).replace("States.ALL", "failed")
            yield f'{indent}{name} -. "{errors}" .-> {catch["Next"]}'


def _extent(state: State) -> str:
    """Over what a map goes, and how many are under way at once."""
    most = re.sub(r"\W", "", str(state["MaxConcurrency"]))
    return f"each of {_path(state['ItemsPath'])}, {most} at once"


def _node(name: str, state: State) -> str:
    """A state by itself; those with round ends are the last of their way."""
    kind = state["Type"]
    if kind not in _SHAPES:
        raise LocalError(f"local/diagrams.py can't draw {name}: its type is {kind}")
    left, right = _LAST if state.get("End") else _SHAPES[kind]
    label = name
    if kind == "Task":
        retries = sum(one["MaxAttempts"] for one in state.get("Retry", []))
        label = f"{name}<br/>{_function(state)}<br/>retried up to {retries} times"
    return f'{name}{left}"{label}"{right}'


def _function(state: State) -> str:
    """The folder of the function that a task invokes."""
    given = state["Parameters"]
    if "FunctionName.$" in given:
        form = re.fullmatch(
            r"States\.Format\('\$\{\w+\}(\w+)\{\}', \$\.(\w+)\)", given["FunctionName.$"]
        )
        if form is None:
            raise LocalError(f"local/diagrams.py can't read {given['FunctionName.$']!r}")
        return f"{form[1]}&lt;{form[2]}&gt;"
    camel = re.sub(r"\W", "", given["FunctionName"]).removesuffix("Function")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", camel).lower()


def _ways(name: str, state: State) -> Iterator[tuple[str, str]]:
    """Where it goes on after a state, each with the condition."""
    for choice in state.get("Choices", []):
        yield _condition(name, choice), choice["Next"]
    if "Default" in state:
        yield "else", state["Default"]
    if "Next" in state:
        yield "", state["Next"]


def _condition(name: str, choice: Mapping[str, Any]) -> str:
    for junction in ("And", "Or"):
        if junction in choice:
            return f" {junction.lower()} ".join(_condition(name, one) for one in choice[junction])
    for comparison, word in _COMPARISONS.items():
        if comparison in choice:
            value = choice[comparison]
            shown = json.dumps(value) if isinstance(value, bool) else value
            return f"{_path(choice['Variable'])} {word} {shown}"
    raise LocalError(f"local/diagrams.py can't draw a condition of {name}: {json.dumps(choice)}")


def _path(path: str) -> str:
    return path.removeprefix("$.")


def render(document: str, diagram: str) -> str:
    """Put a diagram between a document's markers.

    Raises:
        LocalError: the document has no markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LocalError(f"{DOCUMENT} has lost its markers:\n{BEGIN}{END}")
    return f"{before}{BEGIN}```mermaid\n{diagram}```\n{END}{after}"


def main() -> int:
    """Write the diagram; with ``--check``, only say whether it is up to date (status 0 or 1)."""
    parser = argparse.ArgumentParser(prog="python -m local.diagrams")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    options = parser.parse_args()
    document = DOCUMENT.read_text("utf-8")
    made = render(document, flowchart(definition(DEFINITION.read_text("utf-8"))))
    if not options.check:
        DOCUMENT.write_text(made, "utf-8")
    elif made != document:
        sys.stderr.write(f"{DOCUMENT} is stale: run make diagrams\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
