"""Forms of /health."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from marketdata.web.models.common import RUN_ID, Answer, Form, Time

State = Literal["ok", "degraded", "down"]


class Api(Form):
    """This function."""

    status: Literal["ok"]


class Mongodb(Form):
    """The database."""

    status: Literal["ok", "down"]
    ping_ms: float | None = Field(description="Time of a ping; null when there was no answer.")
    message: str | None = Field(description="What is wrong.")


class LastRun(Form):
    """A run in brief."""

    run_id: str = Field(examples=[RUN_ID])
    status: str = Field(examples=["success"])
    trigger: str = Field(examples=["schedule"])
    started_at: Time
    ended_at: Time | None


class Scheduler(Form):
    """The rule that starts runs on a schedule."""

    status: Literal["ok", "disabled", "overdue", "unknown", "unconfigured"] = Field(
        description="`unknown`: the rule could not be read; `unconfigured`: there is none."
    )
    enabled: bool | None = Field(description="Null when it is not known.")
    expression: str | None = Field(examples=["rate(1 hour)"])
    last_run_at: Time | None = Field(description="When the rule last started a run.")
    next_run_at: Time | None = Field(
        description="The time by which it starts the next run. Null where that is not known: "
        "while a run is due or overdue, and while the rule is disabled."
    )
    overdue: bool = Field(description="Whether a run should certainly have started by now.")
    message: str | None = Field(description="What is wrong.")


class FailingSource(Form):
    """A source that does not work at the moment."""

    source: str = Field(examples=["coingecko"])
    failures: int = Field(description="Failed runs in a row.")
    alerted: bool = Field(description="Whether there is an alert for it, sent or about to be sent.")


class FrozenSource(Form):
    """A source that answers, and whose newest observation does not move."""

    source: str = Field(examples=["coingecko"])
    since: Time = Field(description="When the rows were received that moved it last.")
    newest: Time = Field(description="The time of the newest observation.")


class Data(Form):
    """How fresh the data is."""

    status: Literal["ok", "stale", "unknown"] = Field(
        description="`stale`: the rule has been due twice since the last success, which is twice "
        "the interval of `rate(...)`; `unknown`: there is no schedule to judge by."
    )
    last_success_at: Time | None = Field(
        description="The start of the last run that took all sources and was a success."
    )
    failing_sources: list[FailingSource] = Field(
        description="Sources whose last run failed, each with how often in a row."
    )
    frozen_sources: list[FrozenSource] = Field(
        description="Sources that answer, and whose newest observation has not moved for as many "
        "firings of the schedule as `FROZEN_AFTER` says."
    )


class Health(Answer):
    """The health of the service."""

    status: State = Field(
        description="`down`: the database does not answer (HTTP 503). `degraded`: reads work, but "
        "the scheduler does not, the last run failed, the data is stale, or a source is frozen."
    )
    api: Api
    mongodb: Mongodb
    scheduler: Scheduler
    data: Data
    last_run: LastRun | None
    run_id: str | None = Field(description="The last run.", examples=[RUN_ID])
