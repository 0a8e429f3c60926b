"""How much memory a process has used at most."""

from pathlib import Path

MEGABYTE = 1024 * 1024


def peak_memory(pid: int) -> int:
    """The largest resident size that a running process has had, in bytes; 0 if it has ended.

    Linux keeps that figure. Elsewhere it is the size at this moment, which after a call is close.
    """
    if Path("/proc/self/status").exists():
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0  # a process that has ended but was not yet waited for
    import psutil  # noqa: PLC0415 - LocalStack's environment has it; Linux does not need it

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
