"""The worked example of docs/adding-a-source.md, as it stands there, at work."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from marketdata import bootstrap, sources
from marketdata.documents.batches import Counts
from marketdata.load.loader import load_batch
from marketdata.sources.history import Asset, Interval, Window
from marketdata.store.connection import Store
from tests.integration.sources import test_every_source as suite
from tests.support import source_cases
from tests.support.pipeline import Pipeline, counts, line, put_rows
from tests.support.source_cases import Bench
from tests.support.upstream import Reply, Upstream, upstream

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "adding-a-source.md"
NAME = "coinboard"

MODULE = f"layers/marketdata/src/marketdata/sources/{NAME}.py"
HISTORY = f"{MODULE}, continued"
HANDLER = f"functions/extract_{NAME}/app.py"
CASE = "tests/support/source_cases.py"


def blocks() -> dict[str, str]:
    """The page's blocks of code, by the place that their first line names."""
    found = re.findall(
        r"^```(?:python|yaml)\n# ([^\n]+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found
    return dict(found)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's module among the sources, and its case in the suite."""
    (tmp_path / f"{NAME}.py").write_text(blocks()[MODULE])
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    namespace = {**vars(source_cases), "CASES": {}}
    exec(blocks()[CASE], namespace)  # noqa: S102 - it is the project's own page
    monkeypatch.setitem(source_cases.CASES, NAME, namespace["CASES"][NAME])
    importlib.invalidate_caches()
    yield
    sys.modules.pop(f"marketdata.sources.{NAME}", None)
    vars(sources).pop(NAME, None)


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.mark.usefixtures("example")
def test_it_is_found_by_its_name() -> None:
    assert NAME in sources.names()
    assert sources.load(NAME).name == NAME


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize("check", suite.CORE, ids=lambda check: check.__name__[5:])
def test_it_does_what_every_source_must(
    store: Store, server: Upstream, check: Callable[[Bench], None]
) -> None:
    check(Bench(store, server, NAME))


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize("failure", suite.FAILURES)
def test_it_fails_as_every_source_must(store: Store, server: Upstream, failure: str) -> None:
    suite.test_a_source_that_fails_says_what_came_and_stops_no_other(
        Bench(store, server, NAME), failure
    )


@pytest.mark.usefixtures("example")
def test_the_row_that_the_page_shows_is_a_record(store: Store, server: Upstream) -> None:
    shown = re.search(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    server.replies["/shown"] = Reply(json.loads(shown[1]))
    pipeline = Pipeline(store, {"COINBOARD_API_URL": server.url + "/shown"}, [NAME])
    assert counts(line(pipeline.run(), NAME)) == {"inserted": 1}
    record = store.market_data.find_one({})
    assert record is not None
    assert (record["symbol"], record["price_usd"], record["market_cap"]) == ("BTC", 103000.5, None)
    assert record["timestamp"].isoformat() == "2025-05-09T06:00:07+00:00"


@pytest.mark.usefixtures("example")
def test_its_handler_extracts(
    store: Store, server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies["/assets"] = Reply([source_cases.case_of(NAME).row(0)])
    environment = {"COINBOARD_API_URL": server.url + "/assets"}
    monkeypatch.setattr(bootstrap, "store", lambda: store)
    monkeypatch.setattr(bootstrap, "secret", lambda: {"coinboard_api_key": "KEY"})
    monkeypatch.setattr(bootstrap, "environment", lambda: environment)
    module: dict[str, Any] = {}
    exec(blocks()[HANDLER], module)  # noqa: S102 - it is the project's own page
    run_id = Pipeline(store, environment, [NAME]).open()["run_id"]
    context = SimpleNamespace(aws_request_id="request", get_remaining_time_in_millis=lambda: 60_000)
    event = {"run_id": run_id, "input": NAME, "source": NAME}
    answer = module["handler"](event, context)
    assert answer == {"state": "extracted", "numbers": [0], "wait_seconds": 0}
    assert server.seen[-1].headers["X-Api-Key"] == "KEY"


def test_its_history_becomes_records(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{NAME}.py").write_text(blocks()[MODULE] + blocks()[HISTORY])
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        source = sources.load_with_history(NAME).from_environment({}, {})
        begin = datetime(2025, 5, 9, 6, tzinfo=UTC)
        asset, window = (
            Asset("bitcoin", "btc", "Bitcoin"),
            Window(begin, begin + timedelta(hours=2)),
        )
        request = source.history_request(1, asset, window, Interval.HOUR, now=begin)
        assert request.url == "https://api.coinboard.example/v2/assets/bitcoin/past"
        assert request.params == {"from": "1746770400", "to": "1746777599", "every": "1h"}
        shown = re.search(r"`(\[\{\"at\".*?\])`", PAGE.read_text())
        assert shown is not None
        points = json.loads(shown[1])
        points += [points[0] | {"at": 1_746_777_600}, points[0] | {"at": None}, 7]
        body = [json.dumps(points).encode()]
        texts = source.history_rows(asset, window, Interval.HOUR, body, what=NAME)
        rows = [json.loads(text) for text in texts]
        found = load_batch(store, put_rows(store, rows, source=NAME, form="history"))
        assert found == Counts(rows_in=3, inserted=1, quarantined=2)
        record = store.market_data.find_one({})
        assert record is not None
        assert (record["interval"], record["price_usd"]) == ("1h", 103000.5)
        assert (record["timestamp"], record["market_cap"]) == (begin, None)
    finally:
        sys.modules.pop(f"marketdata.sources.{NAME}", None)
        vars(sources).pop(NAME, None)


class _Template(yaml.SafeLoader):
    """CloudFormation's short forms as `{tag: value}`."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    return {tag: loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None}


_Template.add_multi_constructor("!", _tagged)


def test_its_lines_of_template_are_like_those_of_the_others() -> None:
    text = (ROOT / "template.yaml").read_text()
    for place, before in (
        ("Parameters", "  CoingeckoApiUrl:\n"),
        ("Resources", "  NormalizeLoadFunction:\n"),
        ("IngestRole", "                  - !GetAtt ExtractCoingeckoFunction.Arn\n"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, blocks()[f"template.yaml, {place}"] + before)
    template = yaml.load(text, _Template)  # noqa: S506 - a safe loader with CloudFormation's tags
    resources = template["Resources"]

    for kind in ("Function", "Logs"):
        ours, model = resources[f"ExtractCoinboard{kind}"], resources[f"ExtractCoingecko{kind}"]
        for resource in (ours, model):
            resource["Properties"].pop("Description", None)
        variables = ours["Properties"].pop("Environment", {"Variables": {}})["Variables"]
        model["Properties"].pop("Environment", None)
        renamed = json.dumps(model).replace("oingecko", "oinboard")
        assert json.loads(renamed) == ours
        for name, value in variables.items():
            parameter = value["Ref"]
            assert parameter in template["Parameters"]
            assert parameter.upper() == name.replace("_", "")
    statements = resources["IngestRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    assert {"GetAtt": "ExtractCoinboardFunction.Arn"} in statements[0]["Resource"]


@pytest.mark.parametrize("place", [MODULE, HANDLER, HISTORY])
def test_its_code_is_written_as_the_project_s(place: str) -> None:
    text = blocks()[place]
    # The order of imports goes by which modules there are, and the example's is not there. What
    # continues a module brings imports of its own.
    whole = blocks()[MODULE] + text if place == HISTORY else text
    for command, code in (
        (["check", "--extend-ignore", "I001,E402"], whole),
        (["format", "--check"], text),
    ):
        name = place.removesuffix(", continued")
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
            cwd=ROOT,
            input=code,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
