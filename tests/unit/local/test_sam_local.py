"""What the local tool adds to ``sam local``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local.errors import LocalError
from local.events import completed, read_event
from local.sam_local import following, invoke_as_the_state_machine, spell_out_any
from local.settings import ROOT
from marketdata.runs import triggers
from tests.support.waiting import wait_for

EVENTS = ROOT / "events"
STACK = {"refresh_token": "the-true-one"}

HOURLY = read_event(EVENTS / "hourly.json")


class Functions:
    """Answers as the functions of the pipeline would, and remembers who was asked."""

    def __init__(self, *sources: str, proceed: bool = True) -> None:
        self.called: list[str] = []
        self.payloads: list[dict[str, Any]] = []
        self.opened: dict[str, Any] = {
            "run_id": "r",
            "proceed": proceed,
            "inputs": [{"run_id": "r", "input": f"{one}-1", "source": one} for one in sources],
        }

    def __call__(self, name: str, payload: dict[str, Any]) -> Any:
        self.called.append(name)
        self.payloads.append(payload)
        if name == "open_run":
            return self.opened
        if name.startswith("extract_"):
            return {"state": "extracted", "numbers": [0, 1]}
        return {"of": name, "again": False}


class Unfinished(Functions):
    """There is a batch of an earlier run, which takes two calls."""

    def __call__(self, name: str, payload: dict[str, Any]) -> Any:
        answer = super().__call__(name, payload)
        if name.startswith("extract_") and self.called.count(name) == 1:
            return {"state": "unfinished", "numbers": [7]}
        if name == "normalize_load" and self.called.count(name) == 1:
            return {"again": True}
        return answer


def test_an_extractor_gets_its_input_and_the_run_is_closed() -> None:
    functions = Functions("coingecko", "coinpaprika")
    result = invoke_as_the_state_machine("extract_coinpaprika", HOURLY, functions)
    assert result == {"state": "extracted", "numbers": [0, 1]}
    assert functions.called == ["open_run", "extract_coinpaprika", "close_run"]
    assert functions.payloads[1] == functions.opened["inputs"][1]


def test_close_run_comes_after_everything_else() -> None:
    functions = Functions("csv")
    result = invoke_as_the_state_machine("close_run", HOURLY, functions)
    assert result == {"of": "close_run", "again": False}
    assert functions.called == [
        "open_run",
        "extract_csv",
        "normalize_load",
        "normalize_load",
        "close_run",
    ]
    assert functions.payloads[2] == {"run_id": "r", "input": "csv-1", "number": 0}


def test_what_is_to_be_gone_on_with_is() -> None:
    functions = Unfinished("coingecko")
    invoke_as_the_state_machine("close_run", HOURLY, functions)
    numbers = [payload.get("number") for payload in functions.payloads]
    assert list(zip(functions.called, numbers, strict=True)) == [
        ("open_run", None),
        ("extract_coingecko", None),
        ("normalize_load", 7),
        ("normalize_load", 7),
        ("extract_coingecko", None),
        ("normalize_load", 0),
        ("normalize_load", 1),
        ("close_run", None),
    ]


def test_what_open_run_says_is_its_result() -> None:
    functions = Functions("coingecko")
    opened = invoke_as_the_state_machine("open_run", HOURLY, functions)
    assert opened == functions.opened
    assert functions.called == ["open_run", "close_run"]


def test_a_function_that_the_event_is_not_for() -> None:
    functions = Functions("coingecko")
    with pytest.raises(LocalError, match="extract_csv nothing to do; its run takes: coingecko"):
        invoke_as_the_state_machine("extract_csv", HOURLY, functions)
    assert functions.called == ["open_run", "close_run"]


def test_an_event_that_another_run_has() -> None:
    functions = Functions(proceed=False)
    with pytest.raises(LocalError, match="run r"):
        invoke_as_the_state_machine("open_run", HOURLY, functions)
    assert functions.called == ["open_run"]


def test_each_sample_is_invoked_in_a_test() -> None:
    tests = (ROOT / "tests" / "e2e" / "containers" / "test_sam_local.py").read_text("utf-8")
    samples = [file.name for file in EVENTS.iterdir()]
    assert len(samples) >= 4
    assert [name for name in samples if f'"{name}"' not in tests] == []


def test_the_hourly_sample_starts_a_new_run_each_time() -> None:
    first, second = (triggers.parse(completed(HOURLY, STACK)) for _ in range(2))
    assert first.kind == "schedule"
    assert first.event_id != second.event_id != HOURLY["id"]
    assert first.time > triggers.parse(HOURLY).time


def test_the_sample_of_an_upload_is_one() -> None:
    trigger = triggers.parse(read_event(EVENTS / "s3-object-created.json"))
    assert trigger.upload is not None
    assert trigger.upload.key == "incoming/sample-prices.csv"


def test_the_token_is_put_into_a_request() -> None:
    sample = read_event(EVENTS / "api-post-refresh.json")
    event = completed(sample, STACK)
    assert event["headers"]["Authorization"] == "Bearer the-true-one"
    assert event["multiValueHeaders"]["Authorization"] == ["Bearer the-true-one"]
    assert "the-true-one" not in str(sample)
    other = read_event(EVENTS / "api-get-data.json")
    assert completed(other, STACK) == other


def test_an_event_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"none\.json cannot be read"):
        read_event(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(LocalError, match=r"odd\.json is not a JSON object"):
        read_event(tmp_path / "odd.json")


def test_a_route_of_one_method_goes_before_that_of_all() -> None:
    def route(method: str) -> dict[str, Any]:
        return {"Type": "Api", "Properties": {"Path": "/{proxy+}", "Method": method}}

    functions: dict[str, Any] = {
        "Api": {"Properties": {"Events": {"All": route("ANY")}}},
        "Control": {"Properties": {"Events": {"Posts": route("POST")}}},
        "Worker": {"Properties": {}},
    }
    spell_out_any(functions)
    events = functions["Api"]["Properties"]["Events"]
    assert {one["Properties"]["Method"] for one in events.values()} == {
        "GET",
        "HEAD",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
    }
    assert functions["Control"]["Properties"]["Events"] == {"Posts": route("POST")}


def test_a_copy_follows_its_source(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    for folder in (source, copy):
        folder.mkdir()
        (folder / "a.py").write_text("1")
        (folder / "gone.py").write_text("1")
    with following(source, copy):
        (source / "a.py").write_text("changed")
        (source / "deeper").mkdir()
        (source / "deeper" / "new.py").write_text("new")
        (source / "gone.py").unlink()
        wait_for(
            lambda: (
                (copy / "a.py").read_text() == "changed"
                and (copy / "deeper" / "new.py").exists()
                and not (copy / "gone.py").exists()
            ),
            what="the copy is as its source",
            seconds=10,
        )
