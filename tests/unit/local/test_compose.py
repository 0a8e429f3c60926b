"""What the commands for processes do where the stack is one in containers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local import commands
from local.console import Screen
from local.settings import Settings
from local.stack import RUNS_IN, Stack


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, dotenv=tmp_path / ".env").model_copy(
        update={"local_state_dir": tmp_path}
    )


def describe(settings: Settings, **description: str) -> Path:
    file = settings.local_state_dir / "stack.json"
    file.write_text(json.dumps(description))
    return file


def test_down_says_how_containers_are_ended(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    file = describe(settings, runs_in=RUNS_IN)
    commands.down(settings, Screen())
    assert "`make compose-down` stops it" in capsys.readouterr().out
    assert file.exists()


def test_down_forgets_a_stack_of_processes(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    file = describe(settings)
    commands.down(settings, Screen())
    assert "compose-down" not in capsys.readouterr().out
    assert not file.exists()


def test_clean_keeps_the_description_of_containers(settings: Settings) -> None:
    file = describe(settings, runs_in=RUNS_IN)
    (settings.local_state_dir / "logs").mkdir()
    assert Stack(settings, Screen()).clean() == ["logs"]
    assert file.exists()
