"""Ends the runs that LocalStack's end has cut off.

LocalStack forgets its executions when it ends. A run that was under way then would count as running
until its lease is over, and keep the next one from starting.
"""

from typing import Any

from local.errors import LocalError
from marketdata.documents.errors import FailedInput
from marketdata.errors import MarketDataError
from marketdata.runs.closing import close
from marketdata.store.connection import connect

LOCAL_ACCOUNT = "000000000000"
"""Account number of everything in LocalStack."""


def end_orphans(uri: str, database: str, stack_name: str, *, shared: bool) -> list[str]:
    """End all runs of a stack whose LocalStack has just begun anew.

    Args:
        uri: of the database.
        database: its name.
        stack_name: of the stack; its executions have it in their names.
        shared: whether others may use the database too, whose runs must not be touched.

    Returns:
        The ids of the runs that were ended.

    Raises:
        LocalError: the database does not answer.
    """
    orphans: dict[str, Any] = {"status": "running"}
    if shared:
        executions = f":{LOCAL_ACCOUNT}:execution:{stack_name}-ingest:"
        orphans["execution"] = {"$regex": executions}
    reason: FailedInput = {
        "code": "interrupted",
        "message": "The local stack ended while this run was under way.",
    }
    try:
        store = connect(uri, database)
        ids = [str(run["_id"]) for run in store.runs.find(orphans, {"_id": 1})]
        for run_id in ids:
            close(store, run_id, errors=[reason])
        store.runs.database.client.close()
    except MarketDataError as error:
        raise LocalError(f"unfinished runs could not be ended: {error}") from error
    return ids
