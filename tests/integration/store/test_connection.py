"""A database that does not let this service in, or forgets it; what neither is mistaken for."""

from __future__ import annotations

from typing import Any

import pytest

from marketdata.errors import StoreRefused, StoreUnavailable
from marketdata.runs import closing
from marketdata.store import runs
from marketdata.store.batches import queue
from marketdata.store.connection import Store, connect, store_errors
from tests.support.pipeline import Pipeline, coin
from tests.support.upstream import upstream


def test_a_wrong_password_is_named(mongodb_uri: str) -> None:
    wrong = connect(mongodb_uri.replace("://", "://nobody:wrong@", 1), "marketdata")
    try:
        with pytest.raises(StoreRefused, match="did not let this service in") as caught:
            runs.find(wrong, "a run")
    finally:
        wrong.client.close()
    assert "`mongodb_uri`" in caught.value.message
    assert "nobody" not in caught.value.message


def test_it_is_not_taken_for_a_fault_of_the_source(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state machine catches it, and the next run goes on with the source."""

    def refuse(*_: Any) -> None:
        raise StoreRefused("MongoDB does not allow this.")

    with upstream() as server:
        server.pages("/coins", [coin()])
        environment = {"COINGECKO_API_URL": server.url + "/coins", "COINGECKO_PAGES": "1"}
        pipeline = Pipeline(store, environment, ["coingecko"])
        run_id = pipeline.open()["run_id"]
        with monkeypatch.context() as patch:
            patch.setattr(queue, "put_batches", refuse)
            with pytest.raises(StoreRefused):
                pipeline.extract(run_id, "coingecko")
        assert runs.get(store, run_id)["inputs"]["coingecko"]["status"] == "extracting"
        assert closing.close(store, run_id)["status"] == "failed"
        assert pipeline.run()["status"] == "success"


def test_a_cursor_that_the_server_has_lost_may_be_opened_again(store: Store) -> None:
    """As after a restart of mongod between two batches of one cursor."""
    store.database["runs"].insert_many([{"_id": str(number)} for number in range(5)])
    with store.runs.find(batch_size=2) as cursor:
        next(cursor)
        store.database.command("killCursors", store.runs.name, cursors=[cursor.cursor_id])
        with (
            pytest.raises(StoreUnavailable, match="lost the cursor while reading the runs"),
            store_errors("reading the runs"),
        ):
            list(cursor)
