"""The collection `schedule`: since when the rule that starts runs has been seen as it is.

EventBridge says how a rule is, and not since when. A rule that was made or switched on a moment
ago owes nobody a run yet, so whoever judges whether it is late has to know. Each look at the
rule leaves a note here, one for each deployment.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pymongo import ReturnDocument

from marketdata.store.connection import Store, store_errors


def seen_since(
    store: Store,
    deployment: str,
    *,
    enabled: bool,
    expression: str,
    now: datetime,
    silence: timedelta,
) -> datetime:
    """Note how the rule is now; returns since when every look at it has found the same.

    Args:
        store: the database.
        deployment: names the stack that the rule is of; a stack made anew has another rule.
        enabled: whether the rule is enabled.
        expression: its schedule.
        now: the time of this look.
        silence: after so long without a look nobody knows what the rule was meanwhile, and
            the time counts from this look.

    Raises:
        StoreUnavailable: MongoDB cannot be reached.
    """
    state = {"enabled": enabled, "expression": {"$literal": expression}}
    same = [{"$eq": [f"${name}", value]} for name, value in state.items()]
    looked_at = {"$gte": ["$seen_at", now - silence]}
    since = {"$cond": [{"$and": [*same, looked_at]}, "$since", now]}
    with store_errors("noting the state of the schedule"):
        note = store.schedule.find_one_and_update(
            {"_id": {"$eq": deployment}},
            [{"$set": {**state, "since": since, "seen_at": now}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
    # With an upsert there always is one.
    return note["since"] if note else now
