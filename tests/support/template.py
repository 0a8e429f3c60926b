"""What template.yaml and the state machine say, and what the library reads of it."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from typing import Any

import marketdata
from local.settings import ROOT
from marketdata.settings import Settings

FUNCTION_OF = {
    "OpenRun": "OpenRunFunction",
    "CloseUnopened": "OpeningFailedFunction",
    "ExtractionFailed": "NoteFailureFunction",
    "InputFailed": "NoteFailureFunction",
    "CloseRun": "CloseRunFunction",
    "NormalizeLoad": "NormalizeLoadFunction",
}
"""Functions by the state that invokes them; the extractor's name comes with the input."""


def states(machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All states of a state machine, those of its maps included."""
    found = dict(machine["States"])
    for state in machine["States"].values():
        if state["Type"] == "Map":
            found |= states(state["ItemProcessor"])
    return found


def machine() -> dict[str, Any]:
    """The state machine's definition."""
    text = (ROOT / "statemachines" / "ingest.asl.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text.replace("${LoadConcurrency}", "8"))
    return read


def models(base: type[Settings] = Settings) -> set[type[Settings]]:
    """All settings models of the library."""
    for module in pkgutil.walk_packages(marketdata.__path__, "marketdata."):
        importlib.import_module(module.name)
    found = {base} - {Settings}
    for one in base.__subclasses__():
        # A module that a test has made and removed leaves its classes until memory is cleared.
        if one.__module__.startswith("marketdata.") and one.__module__ in sys.modules:
            found |= models(one)
    return found


def read_by_functions() -> dict[str, Any]:
    """Variables that the library reads, with their defaults."""
    return {
        name.upper(): field.default for one in models() for name, field in one.model_fields.items()
    }
