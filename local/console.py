"""What the user sees while things happen: a spinner on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

PLAIN_WIDTH = 110


def make_console() -> Console:
    """Return the console of this process; wide enough for tables where there is no terminal."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A terminal that cannot show a character must not stop the work.
            reconfigure(errors="replace", line_buffering=True)
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, highlight=False, soft_wrap=True, emoji=False)


class Step:
    """One step of the work, as it is shown."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.result = ""

    def done(self, result: str) -> None:
        """Say what came out of it, for the line that stays."""
        self.result = result


class Screen:
    """Shows steps, notes and problems."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console()
        self._status = self.console.status("") if self.console.is_terminal else None

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show that a step is under way, and then its result and how long it took."""
        step = Step(title)
        started = time.monotonic()
        if self._status is not None:
            self._status.update(escape(title) + " …")
            self._status.start()
        else:
            self.console.print(f"  … {title}", markup=False)
        try:
            yield step
        finally:
            if self._status is not None:
                self._status.stop()
        seconds = time.monotonic() - started
        result = step.result or title
        self.console.print(f"  [green]ok[/] {escape(result)} [dim]({seconds:.1f} s)[/]")

    def update(self, title: str) -> None:
        """Change the text of the step under way; on a terminal only."""
        if self._status is not None:
            self._status.update(escape(title))

    @property
    def live(self) -> bool:
        """Whether ``update`` can be seen."""
        return self._status is not None

    def say(self, text: str) -> None:
        """Show a plain line."""
        self.console.print(text, markup=False)

    def heading(self, text: str) -> None:
        """Show the line that starts a part of the work."""
        self.console.print(f"[bold]{escape(text)}[/]")
