"""`/stats`: how much there is, and how runs went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from aws_lambda_powertools.event_handler import Request

from marketdata import clock
from marketdata.documents.batches import StoredCounts
from marketdata.documents.runs import Run, RunStatus
from marketdata.documents.sources import Failures, Lease
from marketdata.store import counts, run_queries, runs
from marketdata.store.batches import reclaiming, reports
from marketdata.store.batches.reclaiming import DeadLettered
from marketdata.store.sources import overview
from marketdata.store.sources.overview import SourceNow, ThrottlingNow
from marketdata.web.models.common import Part
from marketdata.web.models.stats import Stats
from marketdata.web.responses import responses
from marketdata.web.routes.health import brief
from marketdata.web.routes.runs import inputs_of, summary
from marketdata.web.routing import new_router
from marketdata.web.services import services

router = new_router()

WINDOW = 100
"""Ended runs that rates and averages are about."""


@router.get(
    "/stats",
    summary="Figures of data, runs and sources",
    description="How much is stored, what became of all rows, how the last runs went, and the "
    "present state of each source. Totals come from closed batches, so a batch "
    "that was tried twice counts once.",
    responses=responses("The figures."),
    tags=["operations"],
    operation_id="getStats",
)
def get_stats(request: Request) -> Stats:
    """The figures, each from an index or from at most 100 runs."""
    store = services(request).store()
    last = run_queries.last_run(store)
    totals = reports.total_counts(store)
    ended = run_queries.ended_runs(store, limit=WINDOW)
    statuses = Counter(run["status"] for run in ended)
    parked = reclaiming.dead_lettered_by_source(store)
    found = overview.overview(store)
    alive = runs.expiries(store, [one["lease"]["run_id"] for one in found if one["lease"]])
    of_last = None
    if last is not None:
        sums = summary(last, inputs_of(store, [last])[last["_id"]])["totals"]
        of_last = {"run_id": last["_id"], **_incremental(sums)}
    return Stats.model_validate(
        {
            "counts": {
                **counts.row_counts(store),
                "quarantined": counts.quarantined_count(store),
            },
            "totals": totals,
            "incremental": {"last_run": of_last, "total": _incremental(totals)},
            "last_run": brief(last),
            "last_successful_run": brief(run_queries.last_run(store, status=RunStatus.SUCCESS)),
            "error_rate": 1 - statuses[RunStatus.SUCCESS] / len(ended) if ended else None,
            "average_latency_ms": _mean_ms(ended),
            "window": {
                "runs": len(ended),
                **{name: statuses[name] for name in ("success", "partial_success", "failed")},
            },
            "parked_batches": sum(of_source.batches for of_source in parked.values()),
            "sources": {
                one["name"]: {
                    **_source(one),
                    **_parked(parked.get(one["name"])),
                    "lease": _lease(one["lease"], alive),
                }
                for one in found
            },
            "run_id": last["_id"] if last else None,
        }
    )


def _source(found: SourceNow) -> Part:
    """A source as it is told."""
    breaker, watermark = found["breaker"], found["watermark"]
    return {
        "throttling": _throttling(found["throttling"]),
        "breaker": breaker and {**breaker, "until": _iso(breaker.get("until"))},
        **_failures(found["failures"]),
        "watermark": watermark
        and {
            "timestamp": _iso(watermark["timestamp"]),
            "received_at": _iso(watermark["received_at"]),
            "run_id": watermark["run_id"],
            "moved_at": _iso(watermark["moved_at"]),
        },
    }


def _throttling(now: ThrottlingNow | None) -> Part | None:
    if now is None:
        return None
    return {
        "quota_per_minute": now["quota_per_minute"],
        "burst": now["burst"],
        "rate_per_minute": round(now["rate_per_minute"], 3),
        "tokens_left": now["tokens_left"],
        "throttle_events": now["events"],
        "last_throttle_event_at": _iso(now.get("last_event_at")),
        "blocked_until": _iso(now["blocked_until"]),
        "retry_latency_seconds": now["retry_latency_seconds"],
    }


def _failures(counted: Failures | None) -> Part:
    if counted is None:
        return {
            "consecutive_failures": 0,
            "last_success_at": None,
            "last_failure_at": None,
            "last_error": None,
        }
    error = counted.get("last_error")
    return {
        "consecutive_failures": counted["consecutive"],
        "last_success_at": _iso(counted.get("last_success_at")),
        "last_failure_at": _iso(counted.get("last_failure_at")),
        "last_error": error
        and {"code": error["code"], "message": error["message"], "run_id": error.get("run_id")},
    }


def _parked(found: DeadLettered | None) -> Part:
    return {
        "parked_batches": found.batches if found else 0,
        "parked_runs": found.runs if found else [],
    }


def _lease(lease: Lease | None, alive: Mapping[str, datetime]) -> Part | None:
    """Who has a source now: a run's leases last as long as it lives."""
    if lease is None or lease["run_id"] not in alive:
        return None
    run_id = lease["run_id"]
    return {"run_id": run_id, "number": lease["number"], "expires_at": _iso(alive[run_id])}


def _iso(time: datetime | None) -> str | None:
    return None if time is None else clock.iso(time)


def _incremental(counts: StoredCounts) -> Part:
    return {
        "new": counts["inserted"],
        "updated": counts["updated"],
        "unchanged": counts["unchanged"],
    }


def _mean_ms(ended: list[Run]) -> float | None:
    if not ended:
        return None
    milliseconds = [
        clock.to_ms(end) - clock.to_ms(run["started_at"])
        for run in ended
        if (end := run["ended_at"]) is not None
    ]
    return sum(milliseconds) / len(milliseconds)
