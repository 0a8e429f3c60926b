"""A loader that is killed at any moment, and run again, leaves what an undisturbed one leaves.

Each kill is checked on its own, against the whole state: every record with its history and
provenance, the latest prices, what was set aside, and the state and the counts of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import pytest

from marketdata.store.connection import Store
from tests.crash import cases
from tests.support.crash import KILLS, WRITES, Kill, Scene, dice, share

pytestmark = pytest.mark.timeout(300 + KILLS * 3)

SLACK = 1.2
"""Moments are spread over a little more than the usual time: some loaders are slower."""


def every_gap(scene: Scene) -> Iterator[Kill]:
    """Before the first write and after each one: between two of them nothing changes."""
    yield Kill("before", 1)
    for number, name in enumerate(scene.usual.commands, start=1):
        if name in WRITES:
            yield Kill("after", number)


def on_their_way(scene: Scene) -> Iterator[Kill]:
    """While each write is on its way; it may come to pass, or not, and later."""
    chance = dice("on its way")
    for number, name in enumerate(scene.usual.commands, start=1):
        if name in WRITES:
            yield Kill("during", number, chance.uniform(0, 0.002))


def some_time(scene: Scene, *use: object) -> Iterator[Kill]:
    """Moments of chance, spread over the whole life of a loader."""
    chance = dice("time", *use)
    while True:
        yield Kill("time", delay=chance.uniform(0, scene.usual.seconds * SLACK))


def check_each(scene: Scene, kills: Sequence[Kill]) -> int:
    """Kill a loader at each of these moments, run again, compare; returns how many it hit."""
    hit = 0
    for kill in kills:
        scene.restore()
        hit += scene.live(kill).killed
        scene.finish()
        scene.check(f"A loader was killed {kill}")
    return hit


def check_until_hit(scene: Scene, kill: Kill) -> None:
    """Kill a loader at this moment of its life, or earlier where it had ended by then."""
    while not check_each(scene, [kill]):
        kill = replace(kill, delay=kill.delay / 2)


@pytest.mark.parametrize(
    ("case", "part"), [(cases.pages, 0.45), (cases.file, 0.25), (cases.again, 0.1)]
)
def test_a_kill_at_any_moment_changes_nothing(
    store: Store, mongodb_uri: str, case: cases.Case, part: float
) -> None:
    scene = case(store, mongodb_uri)
    gaps, sent = list(every_gap(scene)), list(on_their_way(scene))
    least = share(part) // 6
    rest = max(least, share(part) - len(gaps) - least)
    sent = dice(case.__name__).sample(sent, min(rest, len(sent)))
    times = some_time(scene, case.__name__)
    by_chance = [next(times) for _ in range(max(least, share(part) - len(gaps) - len(sent)))]
    assert check_each(scene, gaps) == len(gaps)
    # Who is killed from outside may have come to the end by then.
    assert check_each(scene, sent) >= len(sent) - 2
    for kill in by_chance:
        check_until_hit(scene, kill)
    print(f"{len(gaps)} + {len(sent)} + {len(by_chance)} kills")  # noqa: T201 - for -rP


def test_a_kill_between_the_parts_of_a_large_batch(store: Store, mongodb_uri: str) -> None:
    scene = cases.large(store, mongodb_uri)
    chance, times, gaps = dice("large"), some_time(scene, "large"), list(every_gap(scene))
    kills = [chance.choice([next(times), chance.choice(gaps)]) for _ in range(share(0.03))]
    for kill in kills:
        check_until_hit(scene, kill)


def test_a_kill_of_a_batch_that_is_loaded_in_several_calls(store: Store, mongodb_uri: str) -> None:
    """Between two calls that had no time to spare, and within the second; another one goes on."""
    scene = cases.long(store, mongodb_uri)
    usual = scene.live(seconds=0)
    scene.check("The time was up in between")
    first, second, *_ = usual.pauses
    # Threads share the work, so that the order of commands is only about the same.
    gaps = [n for n in range(first + 3, second - 2) if usual.commands[n - 1] in WRITES]
    some = dice("calls").sample(gaps, min(len(gaps), share(0.015)))
    between = [Kill("paused", number) for number in range(1, len(usual.pauses) + 1)]
    for kill in [*between, *(Kill("after", number) for number in some)]:
        scene.restore()
        assert scene.live(kill, seconds=0).killed
        (batch,) = store.batches.find({"_id": scene.work[0][0].id})
        assert batch["state"] != "loaded"
        # The one that goes on has little time as well.
        assert not scene.live(seconds=0).killed
        scene.check(f"A loader of a batch in several calls was killed {kill}")


def test_a_batch_that_is_killed_again_and_again(store: Store, mongodb_uri: str) -> None:
    """Each attempt gets one command further than the one before, none of them to the end."""
    scene = cases.pages(store, mongodb_uri)
    made = 0
    for chain in count():
        scene.restore()
        chance = dice("again", chain)
        for step in range(share(0.05)):
            kill = Kill("after", step + 1) if chain == 0 else next(some_time(scene, chain, step))
            made += scene.live(kill).killed
            if chain and chance.random() < 0.1:
                break
        scene.finish()
        scene.check(f"A loader was killed again and again, for the {chain + 1}. time")
        if made >= share(0.08):
            break


def test_a_kill_of_one_of_two_loaders_of_the_same_batches(store: Store, mongodb_uri: str) -> None:
    scene = cases.pages(store, mongodb_uri)
    times = some_time(scene, "two")
    for kill in [next(times) for _ in range(share(0.05))]:
        scene.restore()
        with scene.loader(kill) as one, scene.loader() as other:
            one.end()
            assert not other.end().killed
        scene.finish()
        scene.check(f"One of two loaders was killed {kill}")


def test_a_kill_of_one_of_two_loaders_of_the_same_rows(store: Store, mongodb_uri: str) -> None:
    """One loads the batches in their order, the other in the opposite one."""
    scene = cases.pages(store, mongodb_uri)
    inserted = sum(b["counts"]["inserted"] for b in scene.expected["batches"].values())
    backwards = Scene(store, mongodb_uri, scene.work[::-1])
    times = some_time(scene, "rows")
    for kill in [next(times) for _ in range(share(0.05))]:
        scene.restore()
        with scene.loader(kill) as one, backwards.loader() as other:
            one.end()
            assert not other.end().killed
        scene.finish()
        # Which batch was the first to bring a row is a matter of their order.
        scene.check(
            f"One of two loaders was killed {kill}",
            leave_out=("inserted_by", "counts"),
        )
        batches = store.batches.find({})
        assert sum(b["counts"]["inserted"] for b in batches) == inserted
