"""Ends what a LocalStack that is gone has left; started by ``reaper``.

    python reaper_main.py FOLDER

Reads lines ``+GROUP`` and ``-GROUP`` (process group ids) from standard input. When that ends,
because LocalStack has ended in whatever way, the groups still there are killed and FOLDER is
removed. A process, not a death signal: a pipe closes on every system, whichever thread of
LocalStack started a function, and the groups take the functions' own children with them.
"""

import os
import shutil
import signal
import sys


def main() -> None:
    """Follow standard input to its end, then clear up."""
    # Whoever ends LocalStack by its process tree must not end this first.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        (groups.add if line.startswith("+") else groups.discard)(group)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
