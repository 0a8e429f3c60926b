"""Long-running processes that outlive the command that starts them.

Each part runs detached in a session of its own. A file holds its process id together with when that
process started, so that an id which the system has given to something else meanwhile is never
mistaken for the part. A part's descendants inherit a variable that names the stack's state folder;
by it, whatever a crash left behind is found again.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from local.errors import NotReadyError, PartDiedError, PortTakenError

MARKER = "MARKETDATA_LOCAL_STACK"
"""Variable that every process of a stack inherits; its value is the stack's state folder."""

POLL_SECONDS = 0.05
LOG_KEPT_BYTES = 20 * 1024 * 1024


def start_of(pid: int) -> str | None:
    """Return what tells a process from others with the same id before or after; None if it is gone.

    On Linux that is the boot and the clock ticks since then, whatever the wall clock is set to.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except ProcessLookupError:
        return None
    except OSError:
        try:
            return f"{psutil.Process(pid).create_time():.2f}"
        except psutil.Error:
            return None
    # The command name, in parentheses, may itself contain spaces and parentheses.
    return f"{boot}:{stat.rpartition(')')[2].split()[19]}"


def write_atomically(path: Path, content: str, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - takes the descriptor
        file.write(content)
    scratch.replace(path)


def tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a log, or an empty string when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def why_it_ended(log: Path) -> str:
    """Return what a log says about an end: mongod's own errors if there are any, else its end."""
    end = tail(log, 200).splitlines()
    errors = [line[:400] for line in end if re.search(r'"s":"[EF]"', line)]
    return "\n".join(errors[-5:] or end[-20:]) or "(empty)"


@dataclass
class Part:
    """One long-running process of the stack.

    Attributes:
        name: as the user knows it; also the name of the log and of the process file.
        state: the stack's state folder.
        ended: the processes that ``stop`` has ended.
    """

    name: str
    state: Path
    ended: list[psutil.Process] = field(default_factory=list, repr=False)
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pidfile(self) -> Path:
        """File with the process's id, its start and the fingerprint of how it was started."""
        return self.state / "run" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """File with everything that the process writes."""
        return self.state / "logs" / f"{self.name}.log"

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads(self.pidfile.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    @property
    def started_once(self) -> bool:
        """Whether it was started and not stopped since: not running means that it died."""
        return self.pidfile.exists()

    @property
    def fingerprint(self) -> str | None:
        """Of the command and settings that the running process was started with."""
        return self._record().get("fingerprint")

    @property
    def identity(self) -> str | None:
        """Tells the running process from an earlier or later one; None when it does not run."""
        return self._record().get("started") if self.process() is not None else None

    def process(self) -> psutil.Process | None:
        """Return the running process, or None when it has ended or was never started."""
        # Ours: take its exit status, so that it does not stay as a zombie. Until there is one, some
        # of its threads may still be ending, and have what it had open.
        ours = self._child.pid if self._child is not None and self._child.poll() is None else None
        record = self._record()
        pid = record.get("pid")
        if not isinstance(pid, int) or start_of(pid) != record.get("started"):
            return None
        try:
            process = psutil.Process(pid)
            ended = process.status() == psutil.STATUS_ZOMBIE and pid != ours
        except psutil.NoSuchProcess:
            return None
        return None if ended else process

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path,
        fingerprint: str = "",
        stdout: IO[bytes] | None = None,
    ) -> None:
        """Start the process detached; the log goes on where it was, shortened when it is large.

        Raises:
            NotReadyError: the command cannot be executed.
        """
        if self._child is not None:
            self._child.wait()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_KEPT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with contextlib.ExitStack() as stack:
            output = stdout or stack.enter_context(self.log.open("ab"))
            try:
                self._child = subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env={**env, MARKER: str(self.state)},
                    start_new_session=True,
                )
            except OSError as error:
                raise NotReadyError(f"{self.name} cannot be started: {error}") from error
        record = {
            "pid": self._child.pid,
            "started": start_of(self._child.pid),
            "fingerprint": fingerprint,
            "command": [str(word) for word in command],
        }
        write_atomically(self.pidfile, json.dumps(record, indent=2) + "\n")

    def check(self) -> None:
        """Raise when the process was started and has ended by itself.

        Raises:
            PartDiedError: names the part, with the end of its log.
        """
        if self.process() is None:
            raise PartDiedError(
                f"{self.name} has ended unexpectedly."
                f" The end of {self.log}:\n{why_it_ended(self.log)}"
            )

    def wait_until_ready(self, ready: Callable[[], bool], seconds: float, waiting_for: str) -> None:
        """Poll until ``ready`` says so.

        Raises:
            PartDiedError: the process ended meanwhile.
            NotReadyError: it was not ready within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            if ready():
                return
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"{self.name}: still no {waiting_for} after {seconds:g} s."
                    f" The end of {self.log}:\n{tail(self.log)}"
                )
            time.sleep(POLL_SECONDS)

    def stop(self, seconds: float = 20) -> bool:
        """End the process and all its descendants; politely first, and wait until they are gone.

        Returns whether there was anything to stop.
        """
        process = self.process()
        if process is not None:
            descendants = _descendants(process)
            self.ended = [process, *descendants]
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
            alive = _wait_for_end([process], seconds)
            end_all([*alive, *descendants], seconds=2)
        if self._child is not None:
            self._child.wait()
            self._child = None
        self.pidfile.unlink(missing_ok=True)
        return process is not None

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that the running process has started, and those that they have."""
        process = self.process()
        return [] if process is None else _descendants(process)


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the resident memory of processes, without those that have ended meanwhile."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def end_all(processes: Iterable[psutil.Process], *, seconds: float) -> None:
    """Ask the processes to end, and after ``seconds`` end those that still run."""
    remaining = list(processes)
    for process in remaining:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    alive = _wait_for_end(remaining, seconds)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait_for_end(alive, 5)


def _wait_for_end(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until the processes have ended. Returns those that have not after ``seconds``."""
    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if not _has_ended(process)]:
        if time.monotonic() > deadline:
            return alive
        time.sleep(POLL_SECONDS)
    return []


def wait_until_vanished(processes: Iterable[psutil.Process], seconds: float) -> None:
    """Wait until ended processes are not even listed any more, which is up to the system's init."""
    deadline = time.monotonic() + seconds
    while any(process.is_running() for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _has_ended(process: psutil.Process) -> bool:
    try:
        # One that has ended stays listed until its parent has taken notice.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def leftovers(state: Path, *, nested: bool = False) -> list[psutil.Process]:
    """Return every process of the stack of this state folder, by the variable it inherited.

    Args:
        state: the state folder.
        nested: whether those of folders inside it belong to it too.
    """
    found = []
    for process in psutil.process_iter():
        try:
            owner = process.environ().get(MARKER)
        except (psutil.Error, OSError):
            continue  # another user's, or gone
        if owner is None or process.pid == os.getpid():
            continue
        if owner == str(state) or (nested and Path(owner).is_relative_to(state)):
            found.append(process)
    return found


# --- ports ----------------------------------------------------------------------------------------


def port_is_taken(port: int) -> bool:
    """Return whether something listens on this port of the loopback interface."""
    with socket.socket() as client:
        client.settimeout(1)
        if client.connect_ex(("127.0.0.1", port)) == 0:
            return True
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


_PORTS = range(20_000, 32_000)
"""Below those that Linux (from 32768) and macOS (from 49152) give to connections that go out: while
a part is down that is to come back on its port, none of these may take it."""


def free_port() -> int:
    """Return a port of the loopback interface that nothing uses at this moment.

    Raises:
        OSError: none of many is free.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as server:
            try:
                server.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port among a hundred between 20000 and 32000")


def _listener(port: int) -> str:
    """Describe who listens on a port, as far as the system tells."""
    for process in psutil.process_iter():
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    command = " ".join(process.cmdline())[:80] or process.name()
                    return f" by process {process.pid} ({command})"
        except (psutil.Error, OSError):
            continue
    return ""


_ENDING_SECONDS = 5
"""For a port of which nobody can be seen to listen: a process that was killed is called a zombie as
soon as its first thread has ended, and others may still hold what it had open."""


def require_free_port(port: int, *, part: str, setting: str) -> None:
    """Check that a part can have its port.

    Raises:
        PortTakenError: names the port, who has it if that can be seen, and the setting to change.
    """
    deadline = time.monotonic() + _ENDING_SECONDS
    while port_is_taken(port):
        listener = _listener(port)
        if listener or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    else:
        return
    raise PortTakenError(
        f"port {port}, which {part} needs, is taken{listener}."
        f" Stop that, or choose another port: {setting}={_next_free(port)} make up"
        f" (or put {setting} into .env)"
    )


def _next_free(port: int) -> int:
    return next((other for other in range(port + 1, 65536) if not port_is_taken(other)), 0)
