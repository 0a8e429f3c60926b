"""The process that ends the functions' processes when LocalStack is killed."""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

_PROGRAM = Path(__file__).with_name("reaper_main.py")
_END_SECONDS = 3.0


class Reaper:
    """One process per LocalStack, with the folder that goes away together with LocalStack.

    Attributes:
        folder: for everything that no later LocalStack needs.
    """

    def __init__(self, parent: Path) -> None:
        """Start it.

        Args:
            parent: folder in which its own is made.
        """
        parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM), str(self.folder)],
            stdin=subprocess.PIPE,
            # Own session: an interrupt typed at the terminal goes to LocalStack alone.
            start_new_session=True,
            cwd="/",
        )

    def add(self, group: int) -> None:
        """Take account of a process group."""
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Forget a process group that has ended."""
        self._tell(f"-{group}\n")

    @property
    def released(self) -> bool:
        """Whether it takes account of nothing any more."""
        return self._process.stdin is None or self._process.stdin.closed

    async def release(self) -> None:
        """Let it end the groups still there, remove the folder and end itself."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def wait(self) -> None:
        """Wait for its end after its release."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            # Somebody may have killed the reaper: then LocalStack's orderly end still clears up.
            with contextlib.suppress(OSError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
