"""What the routes need from outside, handed in by whoever composes the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, NoReturn

from marketdata.errors import SettingsError
from marketdata.store.batches.batch import MAX_RESUMPTIONS

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler import Request

    from marketdata.aws.s3 import Uploads
    from marketdata.aws.s3_objects import S3Objects
    from marketdata.aws.schedule import Rule
    from marketdata.runs.starting import WorkflowStarter
    from marketdata.store.connection import Store
    from marketdata.web.problems import Problem


def _not_composed() -> NoReturn:
    raise SettingsError("This function was composed without a service that its route needs.")


@dataclass(frozen=True, slots=True)
class Services:
    """Everything is made on first use: a route pays only for what it touches."""

    store: Callable[[], Store]
    rule: Callable[[], Rule | None] = lambda: None
    """The rule that starts runs; None when none is configured."""
    engine: Callable[[], WorkflowStarter] = _not_composed
    uploads: Callable[[], Uploads] = _not_composed
    objects: Callable[[], S3Objects] = _not_composed
    """Reads uploaded objects."""
    upload_max_bytes: int = 0
    stack_id: str = ""
    """Names the stack: one that is made anew has another id."""
    sources: Sequence[str] = ()
    """The API sources that a run takes."""
    environment: Callable[[], Mapping[str, str]] = dict
    """The environment variables, as the sources read their settings."""
    most_resumptions: int = MAX_RESUMPTIONS
    """How often a batch or a file that failed is tried by later runs."""


@dataclass(slots=True)
class Outcome:
    """What the log shall say of a request."""

    error: Exception | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of one request from outside its route."""

    services: Services
    request_id: str
    deployment: str = ""
    """Names the stack, and the API in it that the request came through. A stack that is made anew
    is another one."""
    started: float = field(default_factory=perf_counter)
    outcome: Outcome = field(default_factory=Outcome)

    def latency_ms(self) -> float:
        """Milliseconds since the function got the request."""
        return round((perf_counter() - self.started) * 1000, 3)


def services(request: Request) -> Services:
    """The services that the request's function was composed with."""
    call: Call = request.context["call"]
    return call.services


def deployment(request: Request) -> str:
    """Names the deployment that the request came to."""
    call: Call = request.context["call"]
    return call.deployment
