"""What of an address is shown, and what of it could be a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import SettingsError
from marketdata.masking import keys_in, masked
from marketdata.settings import read_settings
from marketdata.sources.coingecko import CoinGeckoSettings

KEY = "CG-0a1b2c3d4e5f6g7h8i9j"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example/v3/coins/markets", "https://api.example/v3/coins/markets"),
        (f"https://api.example/v3?key={KEY}#x", "https://api.example/v3"),
        (f"https://user:{KEY}@api.example:8080/v3", "https://api.example:8080/v3"),
        (f"https://api.example/{KEY}/coins", "https://api.example/…/coins"),
        ("https://api.example/0123456789abcdef0123456789abcdef/x", "https://api.example/…/x"),
        ("https://api.example/wrapped-liquid-staked-ether-2", "https://api.example/…"),
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
        (f"https://user:p%40ss@h/{KEY}", {"user", "p%40ss", "p@ss", KEY}),
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
