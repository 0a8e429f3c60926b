"""Settings from environment variables."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata import sources
from marketdata.errors import SettingsError
from marketdata.settings import (
    BatchSettings,
    SecretSettings,
    Settings,
    SourceSettings,
    StoreSettings,
    read_settings,
)


def test_defaults_hold_where_nothing_is_set() -> None:
    assert read_settings(StoreSettings, {}) == StoreSettings(
        mongodb_uri="", mongodb_database="marketdata"
    )
    assert read_settings(BatchSettings, {}).batch_rows == 50_000
    assert read_settings(SecretSettings, {}).secret_id == ""


def test_variables_are_the_fields_in_capitals() -> None:
    environment = {
        "MONGODB_DATABASE": " other ",
        "MONGODB_URI": "mongodb://host",
        "mongodb_uri": "x",
    }
    assert read_settings(StoreSettings, environment) == StoreSettings(
        mongodb_uri="mongodb://host", mongodb_database="other"
    )


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_variable_is_not_set(empty: str) -> None:
    assert read_settings(BatchSettings, {"BATCH_ROWS": empty}).batch_rows == 50_000


def test_the_process_s_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_ROWS", "12")
    assert read_settings(BatchSettings).batch_rows == 12


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (BatchSettings, "BATCH_ROWS", "many"),
        (BatchSettings, "BATCH_ROWS", "0"),
        (BatchSettings, "BATCH_ROWS", "50001"),
        (BatchSettings, "BATCH_ROWS", "1.5"),
        (StoreSettings, "MONGODB_DATABASE", "a.b"),
        (StoreSettings, "MONGODB_DATABASE", "a" * 39),
        (StoreSettings, "MONGODB_DATABASE", "$a"),
    ],
)
def test_a_wrong_value_is_named_with_the_variable(
    model: type[Settings], name: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(model, {name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_all_wrong_values_are_named_at_once() -> None:
    class Two(Settings):
        first_number: int = 0
        second_number: int

    with pytest.raises(SettingsError, match=r"FIRST_NUMBER.*SECOND_NUMBER"):
        read_settings(Two, {"FIRST_NUMBER": "x"})


def test_settings_do_not_change() -> None:
    settings: Any = read_settings(BatchSettings, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.batch_rows = 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("coingecko", ["coingecko"]),
        (" b , a,b,, ", ["b", "a"]),
    ],
)
def test_source_names(text: str, names: list[str]) -> None:
    assert read_settings(SourceSettings, {"SOURCES": text}).names() == names


def test_all_sources_run_by_default() -> None:
    assert sorted(read_settings(SourceSettings, {}).names()) == sources.names()


def test_sources_without_a_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="SOURCES"):
        read_settings(SourceSettings, {"SOURCES": " , "})
