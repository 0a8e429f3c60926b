"""`/stats`: how much there is, and how runs went."""

from __future__ import annotations

from collections import Counter

from aws_lambda_powertools.event_handler import Request

from marketdata import clock
from marketdata.runs.lifecycle import SUCCESS
from marketdata.store import queries
from marketdata.store.connection import Document
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
    summary="How much there is, and how runs went",
    description="What is kept, what became of all rows, and how the last runs went. Totals come "
    "from closed batches, so a batch that was tried twice counts once.",
    responses=responses("The figures."),
    tags=["operations"],
    operation_id="getStats",
)
def get_stats(request: Request) -> Stats:
    """The figures, each from an index or from at most 100 runs."""
    store = services(request).store()
    last = queries.last_run(store)
    totals = queries.total_counts(store)
    ended = queries.ended_runs(store, limit=WINDOW)
    statuses = Counter(run["status"] for run in ended)
    of_last = None
    if last is not None:
        sums = summary(last, inputs_of(store, [last])[last["_id"]])["totals"]
        of_last = {"run_id": last["_id"], **_incremental(sums)}
    return Stats.model_validate(
        {
            "counts": {
                **queries.row_counts(store),
                "quarantined": queries.quarantined_count(store),
            },
            "totals": totals,
            "incremental": {"last_run": of_last, "total": _incremental(totals)},
            "last_run": brief(last),
            "last_successful_run": brief(queries.last_run(store, status=SUCCESS)),
            "error_rate": 1 - statuses[SUCCESS] / len(ended) if ended else None,
            "average_latency_ms": _mean_ms(ended),
            "window": {
                "runs": len(ended),
                **{name: statuses[name] for name in ("success", "partial_success", "failed")},
            },
            "run_id": last["_id"] if last else None,
        }
    )


def _incremental(counts: Document) -> Document:
    return {
        "new": counts["inserted"],
        "updated": counts["updated"],
        "unchanged": counts["unchanged"],
    }


def _mean_ms(runs: list[Document]) -> float | None:
    if not runs:
        return None
    milliseconds = [clock.to_ms(run["ended_at"]) - clock.to_ms(run["started_at"]) for run in runs]
    return sum(milliseconds) / len(milliseconds)
