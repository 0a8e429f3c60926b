"""The local tool's commands as a user calls them, as far as they need no deployment."""

import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from local.orphans import end_orphans
from local.processes import leftovers
from local.settings import ROOT
from marketdata.store.connection import Store
from tests.support.mongod import running_mongod, state_folder
from tests.support.stack import StackUnderTest, isolated_settings

pytestmark = pytest.mark.timeout(150)

NOW = datetime.now(UTC)


@pytest.fixture
def stack() -> Iterator[StackUnderTest]:
    """A stack that is not up, with a state folder of its own."""
    folder = f".local/{state_folder().name}-commands"
    stack = StackUnderTest({**isolated_settings(), "LOCAL_STATE_DIR": folder})
    yield stack
    stack.down()
    shutil.rmtree(ROOT / folder, ignore_errors=True)


def test_a_bad_setting_is_one_line_and_exit_status_1(stack: StackUnderTest) -> None:
    result = stack.command("up", MONGODB_PORT="high")
    assert result.returncode == 1
    assert result.stderr.startswith("error: MONGODB_PORT=high: ")
    assert result.stderr.count("\n") == 1


def test_what_had_started_is_ended_when_a_later_part_fails(stack: StackUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = stack.command("up", MONGODB_PORT=port)
    assert result.returncode == 1
    assert f"port {port}, which mongod needs, is taken" in result.stderr
    assert "MONGODB_PORT=" in result.stderr
    assert leftovers(stack.state) == []
    assert (stack.state / "logs" / "localstack.log").exists()  # it had been started
    assert not (stack.state / "stack.json").exists()


def test_a_database_that_does_not_answer_is_named_without_its_password(
    stack: StackUnderTest,
) -> None:
    uri = "mongodb://user:s3cret@127.0.0.1:9/?serverSelectionTimeoutMS=300"
    result = stack.command("up", MONGODB_URI=uri)
    assert result.returncode == 1
    assert "MONGODB_URI" in result.stderr
    assert "s3cret" not in result.stdout + result.stderr
    assert leftovers(stack.state) == []


def test_commands_on_a_stack_that_is_not_up(stack: StackUnderTest) -> None:
    status = stack.command("status")
    assert status.returncode == 0
    assert "stopped" in status.stdout
    assert "make up" in status.stdout
    for words in (["refresh"], ["migrate"], ["rebuild"], ["logs", "nothing"]):
        result = stack.command(*words)
        assert result.returncode == 1, words
        assert result.stderr.startswith("error: "), words
    down = stack.command("down")
    assert (down.returncode, "nothing was running" in down.stdout) == (0, True)


def test_clean_removes_this_state_only(stack: StackUnderTest) -> None:
    (stack.state / "mongodb").mkdir(parents=True)
    (stack.state / "refresh-token").write_text("x")
    other = stack.state.with_name(stack.state.name + "-other")
    other.mkdir()
    try:
        assert stack.command("clean").returncode == 0
        assert [path.name for path in stack.state.iterdir()] == ["lock"]
        assert other.exists()
    finally:
        other.rmdir()


def running(run_id: str, execution: str | None) -> dict[str, object]:
    return {
        "_id": run_id,
        "status": "running",
        "trigger": "refresh",
        "execution": execution,
        "started_at": NOW,
        "expires_at": NOW + timedelta(minutes=20),
        "holds": [run_id],
        "inputs": {},
    }


@pytest.mark.parametrize("shared", [False, True])
def test_runs_that_localstacks_end_cut_off_are_closed(store: Store, *, shared: bool) -> None:
    arn = "arn:aws:states:us-east-1:{}:execution:{}-ingest:x"
    store.database["runs"].insert_one(
        running("mine", arn.format("000000000000", "marketdata-local"))
    )
    store.database["runs"].insert_one(
        running("clouds", arn.format("123456789012", "marketdata-local"))
    )
    store.database["runs"].insert_one(running("unborn", None))
    address = store.client.address
    assert address is not None
    uri = f"mongodb://{address[0]}:{address[1]}/?directConnection=true"
    ended = end_orphans(uri, store.database.name, "marketdata-local", shared=shared)
    assert set(ended) == ({"mine"} if shared else {"mine", "clouds", "unborn"})
    assert store.runs.count_documents({"status": "running"}) == 3 - len(ended)
    mine = store.runs.find_one({"_id": "mine"})
    assert mine is not None
    assert mine["error"]["code"] == "interrupted"


def test_a_tests_database_outlives_the_stack_of_its_folder(
    stack: StackUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_STATE_DIR", stack.settings["LOCAL_STATE_DIR"])
    with running_mongod() as mongod:
        stack.down()
        assert mongod.healthy()
        assert stack.command("down", "--nested").returncode == 0
        assert mongod.part.process() is None
