"""A backfill whose process dies by SIGKILL before one of its commands: another one goes on."""

from __future__ import annotations

from functools import partial

from marketdata.store import runs
from marketdata.store.connection import Store
from tests.support.backfills import COINS, MARKETS, Backfills, days_ago, know, serve_charts
from tests.support.chaos import assert_conserved, assert_same, assert_settled, state_of
from tests.support.dying import do_backfill, live
from tests.support.upstream import Upstream

DEATHS = 20
ASKED = {
    "assets": list(COINS),
    "interval": "1d",
    "start": days_ago(120),
    "end": days_ago(9),
}
REQUESTS = len(COINS)


def test_killed_at_twenty_moments_it_ends_as_if_nothing_had_been(
    store: Store, server: Upstream, mongodb_uri: str
) -> None:
    serve_charts(server)
    environment = {
        "COINGECKO_API_URL": server.url + MARKETS,
        # So that deaths are all that it meets.
        "COINGECKO_RATE_PER_MINUTE": "100000",
        "COINGECKO_BURST": "100000",
    }
    world = Backfills(store, environment)

    def begin() -> str:
        for name in store.database.list_collection_names():
            if name != store.migrations.name:
                store.database[name].delete_many({})
        know(store, *COINS)
        server.seen.clear()
        run_id: str = world.request(**ASKED)["run_id"]
        return run_id

    run_id = begin()
    work = partial(do_backfill, environment, run_id)
    commands = live(work, mongodb_uri, store.database.name)
    assert commands is not None
    assert runs.get(store, run_id)["status"] == "success"
    assert len(server.seen) == REQUESTS
    expected = state_of(store)
    for death in range(DEATHS):
        run_id = begin()
        work = partial(do_backfill, environment, run_id)
        before = 1 + death * (len(commands) - 1) // (DEATHS - 1)
        assert live(work, mongodb_uri, store.database.name, dies_before=before) is None
        world.go_on(run_id)
        assert runs.get(store, run_id)["status"] == "success", before
        # At most the request that was under way is made again.
        assert REQUESTS <= len(server.seen) <= REQUESTS + 1
        assert_settled(store)
        assert_same(state_of(store), expected)
        assert_conserved(store)
