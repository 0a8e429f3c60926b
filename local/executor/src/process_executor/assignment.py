"""Two races in how LocalStack 4.14.0 chooses an environment for a call, closed.

AssignmentService.get_environment goes over a dictionary of environments to which other calls add
(RuntimeError: dictionary changed size during iteration), and puts a new environment into it before
it reserves it, so that another call can take it first (InvalidStatusException). Both fail a call
with a service error when several come at once, which a distributed map does.
"""

import threading
from collections.abc import Callable
from typing import Any


class _Environments(dict[str, Any]):
    """LocalStack's environments by id, gone over as they were at that moment."""

    def values(self) -> Any:
        return list(super().values())


def close_races() -> None:
    """Patch LocalStack's AssignmentService; doing it twice is doing it once."""
    from localstack.services.lambda_.invocation.assignment import (  # noqa: PLC0415
        AssignmentService,
    )

    original = AssignmentService.start_environment
    if getattr(original, "races_closed", False):
        return
    lock = threading.Lock()

    def start_environment(service: Any, version_manager_id: str, function_version: Any) -> Any:
        with lock:
            known = service.environments[version_manager_id]
            if not isinstance(known, _Environments):
                service.environments[version_manager_id] = _Environments(known)
        environment = original(service, version_manager_id, function_version)
        _reserve_for_this_thread(environment)
        return environment

    start_environment.races_closed = True  # type: ignore[attr-defined]
    AssignmentService.start_environment = start_environment


def _reserve_for_this_thread(environment: Any) -> None:
    """Let nobody but the call that started an environment have it first."""
    from localstack.services.lambda_.invocation.execution_environment import (  # noqa: PLC0415
        InvalidStatusException,
    )

    owner = threading.get_ident()
    reserve: Callable[[], None] = environment.reserve

    def reserve_first() -> None:
        if threading.get_ident() != owner:
            raise InvalidStatusException(f"environment {environment.id} is its starter's first")
        del environment.reserve  # the class's method again
        reserve()

    environment.reserve = reserve_first
