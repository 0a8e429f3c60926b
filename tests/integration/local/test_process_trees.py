"""Processes that outlive the command that started them, and how they are ended."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local.errors import NotReadyError, PartDiedError
from local.processes import (
    MARKER,
    Part,
    end_all,
    leftovers,
    memory_bytes,
    start_of,
    wait_until_vanished,
)
from tests.support.waiting import wait_for

PARENT = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); "
                          "time.sleep(600)"], start_new_session=True)
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    part = Part("part", tmp_path / "with space")
    yield part
    part.stop(seconds=1)
    end_all(leftovers(part.state), seconds=1)


def start(part: Part, *words: str) -> int:
    """Start the part with a child of its own, and return that child's id."""
    command = [sys.executable, "-c", PARENT, *words]
    part.start(command, env=dict(os.environ), cwd=Path.cwd(), fingerprint="f")
    text = wait_for(
        lambda: "child" in (log := part.log.read_text()) and "ready" in log and log,
        what="the part and its child have started",
    )
    return int(str(text).partition("ready ")[2].split()[0])


def test_it_runs_in_a_session_of_its_own_and_is_found_again(part: Part) -> None:
    start(part)
    process = part.process()
    assert process is not None
    assert os.getsid(process.pid) == process.pid
    found = Part(part.name, part.state).process()
    assert found == process
    assert part.fingerprint == "f"
    assert part.identity == start_of(process.pid)
    assert memory_bytes([process, *part.descendants()]) > 1_000_000


@pytest.mark.parametrize("words", [(), ("stubborn",)])
def test_stopping_ends_the_whole_tree(part: Part, words: tuple[str, ...]) -> None:
    child = start(part, *words)
    assert part.stop(seconds=1) is True
    assert part.process() is None
    wait_until_vanished(part.ended, seconds=20)
    assert not psutil.pid_exists(child)
    assert not part.started_once


def test_a_kill_is_noticed_and_what_it_left_behind_is_found(part: Part) -> None:
    child = start(part)
    process = part.process()
    assert process is not None
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with pytest.raises(PartDiedError, match="part has ended unexpectedly"):
        part.check()
    assert [one.pid for one in leftovers(part.state)] == [child]
    assert [one.pid for one in leftovers(part.state.parent, nested=True)] == [child]
    assert leftovers(part.state.parent) == []


def test_descendants_know_whose_they_are(part: Part) -> None:
    child = start(part)
    assert psutil.Process(child).environ()[MARKER] == str(part.state)


def test_a_command_that_does_not_exist_is_named(part: Part) -> None:
    with pytest.raises(NotReadyError, match=r"part cannot be started: .*no-such-program"):
        part.start(["/no-such-program"], env={}, cwd=Path.cwd())


def test_a_long_log_begins_anew_and_keeps_the_old_one(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.processes.LOG_KEPT_BYTES", 10)
    part.log.parent.mkdir(parents=True)
    part.log.write_text("old content")
    start(part)
    assert "old" not in part.log.read_text()
    assert part.log.with_suffix(".log.1").read_text() == "old content"
