"""Which address each source reads from."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local.processes import free_port
from local.settings import Settings
from local.upstream import choose, of_samples, probe, summary

TEMPLATE = """
Parameters:
  CoingeckoApiUrl: {{Type: String, Default: "{0}/api/v3/coins/markets"}}
  CoinpaprikaApiUrl: {{Type: String, Default: "{0}/v1/tickers"}}
  CoingeckoRatePerMinute: {{Type: Number, Default: 3}}
  CoingeckoBurst: {{Type: Number, Default: 5}}
  CoinpaprikaBurst: {{Type: Number, Default: 15}}
  Sources: {{Type: String, Default: coingecko}}
  FrozenAfter: {{Type: String, Default: "3"}}
"""


class Api(BaseHTTPRequestHandler):
    """Answers as its path says: with JSON, HTML, a status, or not at all."""

    silent = threading.Event()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/silent":
            self.silent.wait(30)
            return
        status = int(path[1:]) if path[1:].isdigit() else 200
        body = b"<html>" if path == "/html" else b"[]"
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if path == "/html" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    Api.silent.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        Api.silent.set()
        server.shutdown()
        thread.join()


def settings(tmp_path: Path, public: str, **env: str) -> Settings:
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE.format(public))
    return Settings.load({"REPLAY_PORT": "8099", **env}, tmp_path / "no.env", template)


def test_an_api_that_answers_is_used(tmp_path: Path, api: str) -> None:
    choices = choose(settings(tmp_path, api))
    assert summary(choices) == "live"
    assert choices["CoingeckoApiUrl"].url == f"{api}/api/v3/coins/markets"


def test_an_api_that_cannot_be_reached_is_replaced(tmp_path: Path) -> None:
    choices = choose(settings(tmp_path, f"http://127.0.0.1:{free_port()}"))
    assert summary(choices) == "replay"
    assert choices["CoingeckoApiUrl"].url == "http://127.0.0.1:8099/api/v3/coins/markets"
    assert choices["CoinpaprikaApiUrl"].url == "http://127.0.0.1:8099/v1/tickers"
    assert "cannot be reached" in choices["CoingeckoApiUrl"].reason


def test_live_does_not_ask(tmp_path: Path) -> None:
    public = f"http://127.0.0.1:{free_port()}"
    choices = choose(settings(tmp_path, public, UPSTREAM="live"))
    assert summary(choices) == "live"


def test_an_address_of_the_users_is_used_as_given(tmp_path: Path, api: str) -> None:
    own = "http://127.0.0.1:9/x"
    choices = choose(settings(tmp_path, api, COINGECKO_API_URL=own))
    assert (choices["CoingeckoApiUrl"].url, choices["CoingeckoApiUrl"].kind) == (own, "custom")
    assert choices["CoinpaprikaApiUrl"].kind == "live"
    assert summary(choices) == "custom"


def test_replay_goes_before_an_address_of_the_users(tmp_path: Path) -> None:
    env = {"COINGECKO_API_URL": "http://127.0.0.1:9/x", "UPSTREAM": "replay"}
    choices = choose(settings(tmp_path, "https://api.example", **env))
    assert {choice.kind for choice in choices.values()} == {"replay"}
    ignored = choices["CoingeckoApiUrl"]
    assert ignored.instead_of == "http://127.0.0.1:9/x"
    assert ignored.reason == "COINGECKO_API_URL is ignored, as UPSTREAM=replay is set"
    assert choices["CoinpaprikaApiUrl"].instead_of == "https://api.example/v1/tickers"


def test_the_public_address_set_by_the_user_is_not_custom(tmp_path: Path, api: str) -> None:
    own = {"COINGECKO_API_URL": f"{api}/api/v3/coins/markets"}
    assert summary(choose(settings(tmp_path, api, **own))) == "live"


def test_what_counts_as_an_answer(api: str) -> None:
    names = ["ok", "429", "503", "html"]
    answers = probe({name: f"{api}/{name}" for name in names})
    assert answers["ok"] == ""
    assert answers["429"] == ""
    assert answers["503"] == "answered with status 503"
    assert answers["html"] == "answered with text/html instead of JSON"


def test_an_api_that_stays_silent_is_not_waited_for(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.upstream.PROBE_SECONDS", 0.2)
    assert re.search("timed out|did not answer", probe({"silent": f"{api}/silent"})["silent"])


def test_sample_data_has_no_quota_but_one_that_is_set_and_never_is_frozen(tmp_path: Path) -> None:
    found = settings(tmp_path, "https://api.example", UPSTREAM="replay", COINGECKO_BURST="7")
    assert of_samples(found, choose(found)) == {
        "CoingeckoRatePerMinute": "100000",
        "CoinpaprikaBurst": "100000",
        "FrozenAfter": "3,coingecko=0,coinpaprika=0",
    }


def test_a_public_api_keeps_its_quota(tmp_path: Path) -> None:
    found = settings(
        tmp_path, "https://api.example", UPSTREAM="live", COINPAPRIKA_API_URL="http://127.0.0.1:9/x"
    )
    assert of_samples(found, choose(found)) == {}
