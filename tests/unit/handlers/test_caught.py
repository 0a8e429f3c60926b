"""What Step Functions caught becomes the errors of a run."""

from __future__ import annotations

import json

import pytest

from marketdata.handlers.caught import Caught, read_caught, read_results


def of_function(name: str, message: str) -> Caught:
    return {"Error": name, "Cause": json.dumps({"errorType": name, "errorMessage": message})}


@pytest.mark.parametrize(
    ("caught", "code", "message"),
    [
        (of_function("TransientError", "store_full: no\nroom"), "store_full", "no\nroom"),
        (of_function("TerminalError", "settings: A: wrong"), "settings", "A: wrong"),
        # Without a code, or of another class, a message is only a message.
        (of_function("TerminalError", "It is late."), "TerminalError", "It is late."),
        (of_function("ValueError", "key: is missing"), "ValueError", "key: is missing"),
        # AWS itself answers with text, and a function that was killed with little else.
        ({"Error": "States.Timeout", "Cause": "too late"}, "States.Timeout", "too late"),
        ({"Error": "Sandbox.Timedout", "Cause": '{"a": 1}'}, "Sandbox.Timedout", '{"a": 1}'),
        ({"Error": "States.Runtime", "Cause": "[1]"}, "States.Runtime", "[1]"),
    ],
)
def test_the_code_and_the_message_of_an_error(caught: Caught, code: str, message: str) -> None:
    assert read_caught(caught) == {"code": code, "message": message}


def test_an_error_without_a_cause_says_where_to_look() -> None:
    read = read_caught({"Error": "Runtime.ExitError"})
    assert read["code"] == "Runtime.ExitError"
    assert "the log of its function" in read["message"]


def test_long_messages_are_cut() -> None:
    read = read_caught(of_function("TransientError", "transient: " + "x" * 5_000))
    assert read["message"] == "x" * 2_000


def test_only_inputs_that_failed_have_errors() -> None:
    caught = of_function("TransientError", "transient: no answer")
    why = {"code": "transient", "message": "no answer"}
    read = read_results([{"input": "a"}, {"input": "b", "caught": caught}, {"caught": caught}])
    assert read == [{**why, "input": "b"}, why]
