"""No operation of MongoDB lasts longer than the function that it is done for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Protocol

import pymongo

_LEAST_SECONDS = 1.0


class Remaining(Protocol):
    """What tells how much time a function has left: Lambda's context."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the call."""
        ...


def within(context: Remaining, *, to_tell: float) -> AbstractContextManager[None]:
    """A block whose operations of MongoDB are over in time, in this thread and in `Threads`.

    Args:
        context: tells how much time there is.
        to_tell: seconds of it that are left for telling that MongoDB did not answer.
    """
    left = context.get_remaining_time_in_millis() / 1000 - to_tell
    return pymongo.timeout(max(_LEAST_SECONDS, left))


class Threads(ThreadPoolExecutor):
    """Threads that keep to the time limit of whoever gives them work.

    The driver keeps the limit in a context variable, which other threads do not see.
    """

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `ThreadPoolExecutor.submit`, in a copy of the caller's context."""
        return super().submit(copy_context().run, partial(fn, *args, **kwargs))
