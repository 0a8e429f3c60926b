"""Errors that Step Functions caught, in the form in which this program stores errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NotRequired, TypedDict

from marketdata.documents.errors import FailedInput, StoredError
from marketdata.errors import TerminalError, TransientError

_CLASSES = (TransientError.__name__, TerminalError.__name__)
_CODED = re.compile(r"([a-z_]+): (.*)", re.DOTALL)
"""The message of an error of this library, as `handlers.tasks` lets it out: its code goes first."""
_MESSAGE_CHARACTERS = 2_000


class Caught(TypedDict, total=False):
    """What a state's `Catch` hands to the next state.

    Format: AWS Step Functions Developer Guide, "Handling errors in Step Functions workflows".
    """

    Error: str
    """Name of the error: a function's class of errors, or a name of AWS."""
    Cause: str
    """JSON with `errorMessage`, if a function raised it; else text. A failed input has none."""


class InputResult(TypedDict):
    """How an input of a run ended, as the state machine tells it."""

    input: NotRequired[str]
    """The input; not there if the error is that of the whole map."""
    caught: NotRequired[Caught]
    """What failed; not there if nothing did."""


def read_caught(caught: Caught) -> StoredError:
    """Read why a step failed.

    An error of this library arrives under one of two names, with its code before its message; the
    code is taken from there. The cause of a failed input is not there any more when its run is
    closed: it was noted before, unless MongoDB could not be reached. Then the message says where
    to look.
    """
    code = caught.get("Error", "unknown")
    cause = caught.get("Cause") or (
        f"One of its steps failed with {code}; the log of its function has the cause."
    )
    message = _message(cause)
    if code in _CLASSES and (told := _CODED.match(message)):
        code, message = told.groups()
    return {"code": code, "message": message[:_MESSAGE_CHARACTERS]}


def read_results(results: Iterable[InputResult]) -> list[FailedInput]:
    """Read what failed of the inputs of a run; those that came to their end are left out."""
    failed: list[FailedInput] = []
    for result in results:
        if caught := result.get("caught"):
            why = read_caught(caught)
            error: FailedInput = {"code": why["code"], "message": why["message"]}
            if "input" in result:
                error["input"] = result["input"]
            failed.append(error)
    return failed


def _message(cause: str) -> str:
    try:
        parsed = json.loads(cause)
    except ValueError:
        return cause
    return str(parsed.get("errorMessage", cause)) if isinstance(parsed, Mapping) else cause
