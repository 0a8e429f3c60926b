"""What of an address is shown, and what of it could be a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import SettingsError
from marketdata.masking import forms_of, keys_in, masked, without
from marketdata.settings import read_settings
from marketdata.sources.coingecko import CoinGecko, CoinGeckoSettings
from marketdata.sources.coinpaprika import CoinPaprika
from marketdata.sources.history import Asset, HistorySource, Interval, Window

KEY = "CG-0a1b2c3d4e5f6g7h8i9j"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example/v3/coins/markets", "https://api.example/v3/coins/markets"),
        (f"https://api.example/v3?key={KEY}#x", "https://api.example/v3"),
        (f"https://user:{KEY}@api.example:8080/v3", "https://api.example:8080/v3"),
        (f"https://api.example/{KEY}/coins", "https://api.example/…/coins"),
        ("https://api.example/0123456789abcdef0123456789abcdef/v3", "https://api.example/…/v3"),
        ("https://api.example/wrapped-liquid-staked-ether-2", "https://api.example/…"),
        (
            "https://api.example/secret/v2.1/Coins/markets/",
            "https://api.example/…/v2.1/Coins/markets/",
        ),
        ("https://api.example/p%40ss/coins/x", "https://api.example/…/coins/…"),
        ("https://gate.example:80/gate/api/v1", "https://gate.example:80/gate/api/v1"),
        ("api.example", "api.example"),
        ("", ""),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert masked(shown) == shown


@given(
    st.from_regex(r"[A-Za-z0-9]{20,40}", fullmatch=True).filter(
        lambda key: any(c.isdigit() for c in key) and any(c.isalpha() for c in key)
    ),
    st.sampled_from(
        ["https://h/a?x={}", "https://h/a?{}", "https://{}@h/a", "https://u:{}@h", "https://h/{}/a"]
    ),
)
def test_a_key_is_never_shown_wherever_it_stands(key: str, form: str) -> None:
    assert key not in masked(form.format(key))


@pytest.mark.parametrize(
    ("url", "keys"),
    [
        (f"https://h/a?x_cg_demo_api_key={KEY}&page=1", {KEY}),
        ("https://h/a?token=abcd&order=market_cap_desc", {"abcd"}),
        (f"https://user:p%40ss@h/{KEY}", {"user", "p%40ss", "p@ss", "dXNlcjpwQHNz", KEY}),
        ("https://h/a?key=p%40ss", {"p%40ss", "p@ss"}),
        (f"https://h/a?{KEY}", {KEY}),
        ("https://h/Sesame/p%40ss/v3/coins", {"Sesame", "p%40ss", "p@ss"}),
        ("https://h/api/v3/coins/markets?vs_currency=usd", set[str]()),
        ("https://[broken", set[str]()),
    ],
)
def test_what_of_an_address_could_be_a_key(url: str, keys: set[str]) -> None:
    assert set(keys_in(url)) == keys


def test_a_wrong_address_is_named_without_its_key() -> None:
    with pytest.raises(SettingsError, match="COINGECKO_API_URL") as caught:
        read_settings(CoinGeckoSettings, {"COINGECKO_API_URL": f"api.example/v3?key={KEY}"})
    assert KEY not in str(caught.value)
    assert "api.example/v3" in str(caught.value)


def test_an_asset_s_id_in_a_path_is_shown_where_it_is_known() -> None:
    url = "https://api.example/v3/SECRET/coins/usd%2Fcoin/market_chart/range"
    shown = "https://api.example/v3/…/coins/usd%2Fcoin/market_chart/range"
    assert masked(url, {"usd/coin"}) == shown
    assert set(keys_in(url, {"usd/coin"})) == {"SECRET"}


@pytest.mark.parametrize("source", [CoinGecko, CoinPaprika])
def test_addresses_of_the_sources_are_shown_whole(source: type[HistorySource]) -> None:
    configured = source.from_environment({}, {})
    now = datetime(2025, 5, 9, tzinfo=UTC)
    window = Window(now - timedelta(days=2), now)
    asset = Asset("wrapped-liquid-staked-ether-2", "X", None)
    past = configured.history_request(1, asset, window, Interval.DAY, now=now)
    for request in (configured.page(1), past):
        assert masked(request.url, request.shown) == request.url
        assert set(keys_in(request.url, request.shown)) == set()


@given(st.text(min_size=4, max_size=40), st.text(), st.text())
def test_a_text_is_without_a_key_however_it_repeats_it(key: str, before: str, after: str) -> None:
    forms = forms_of([key])
    for form in forms:
        assert form not in without(f"{before}{form}{after}", forms)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key CG-0a1b2c3d4e5f6g7h8i9j!", "key …!"),
        ("It begins: 'key CG-0a1b2'. Ask", "It begins: 'key …'. Ask"),
        ("cut off at CG-0a1b2c", "cut off at …"),
        ("row 0: '7h8i9j\"]'.", "row 0: '…\"]'."),
        ("nothing of CG- or 8i9j here", "nothing of CG- or 8i9j here"),
    ],
)
def test_a_key_that_is_cut_off_is_masked(text: str, shown: str) -> None:
    assert without(text, forms_of([KEY])) == shown
