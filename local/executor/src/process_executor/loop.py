"""The one thread in which all environments live.

Everything about an environment happens in this thread's event loop, so that none of it needs a
lock; LocalStack's threads hand over a coroutine and wait.
"""

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache

_starting = threading.Lock()


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="process-executor", daemon=True).start()
    return loop


def run[T](coroutine: Coroutine[object, object, T], timeout: float | None = None) -> T:
    """Run a coroutine in the event loop and wait for it from another thread.

    Args:
        coroutine: what to run.
        timeout: seconds to wait at most; None for no limit.

    Raises:
        TimeoutError: if it took longer; the coroutine goes on.
    """
    with _starting:  # a cache alone would let two first callers make two
        loop = _event_loop()
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout)
