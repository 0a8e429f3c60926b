"""Process records, ports and logs."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from local.errors import PartDiedError, PortTakenError
from local.processes import (
    Part,
    free_port,
    port_is_taken,
    require_free_port,
    start_of,
    tail,
    why_it_ended,
    write_atomically,
)


def record(part: Part, **content: object) -> None:
    write_atomically(part.pidfile, json.dumps(content))


def test_a_process_is_told_from_another_with_the_same_id(tmp_path: Path) -> None:
    part = Part("part", tmp_path)
    assert part.process() is None
    record(part, pid=os.getpid(), started=start_of(os.getpid()))
    process = part.process()
    assert process is not None
    assert process.pid == os.getpid()
    record(part, pid=os.getpid(), started="another boot:1")
    assert part.process() is None
    assert part.started_once


def test_a_process_that_is_gone_has_no_start() -> None:
    assert start_of(2**22 + 1) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "1"}', '{"pid": null}'])
def test_a_damaged_record_is_no_process(tmp_path: Path, content: str) -> None:
    part = Part("part", tmp_path)
    write_atomically(part.pidfile, content)
    assert part.process() is None
    assert part.stop() is False
    assert not part.pidfile.exists()


def test_stopping_never_touches_a_process_with_a_reused_id(tmp_path: Path) -> None:
    part = Part("part", tmp_path)
    record(part, pid=os.getpid(), started="another boot:1")
    assert part.stop() is False  # and this test goes on


def test_a_part_that_died_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    part = Part("mongod", tmp_path)
    record(part, pid=2**22 + 1, started="x")
    write_atomically(part.log, "".join(f"line {number}\n" for number in range(50)))
    with pytest.raises(PartDiedError, match=r"mongod has ended(?s:.)*line 49") as caught:
        part.check()
    assert "line 20\n" not in str(caught.value)
    assert str(part.log) in str(caught.value)


def test_mongods_own_errors_come_before_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "mongod.log"
    quiet = '{"s":"I","msg":"shutting down"}\n'
    log.write_text(quiet + '{"s":"F","msg":"no space left"}\n' + quiet * 60)
    assert why_it_ended(log) == '{"s":"F","msg":"no space left"}'


def test_the_tail_of_a_large_or_missing_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_text("x" * 200_000 + "\nlast\n")
    assert tail(log, 1) == "last"


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_is_taken(port)
        with pytest.raises(PortTakenError) as caught:
            require_free_port(port, part="mongod", setting="MONGODB_PORT")
        message = str(caught.value)
        assert f"port {port}, which mongod needs, is taken" in message
        assert f"process {os.getpid()}" in message
        assert "MONGODB_PORT=" in message


def test_a_free_port_is_free() -> None:
    port = free_port()
    assert not port_is_taken(port)
    require_free_port(port, part="mongod", setting="MONGODB_PORT")


def test_files_are_replaced_as_a_whole_and_keep_their_mode(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "token"
    write_atomically(file, "one", mode=0o600)
    write_atomically(file, "two", mode=0o600)
    assert file.read_text() == "two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["token"]
