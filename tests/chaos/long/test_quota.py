"""The quota of a minute, in real time, with eight extractors that all want more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local.mongod import Mongod
from tests.support.quota import race
from tests.support.simulator import Simulator, most_within


@pytest.mark.timeout(600)
def test_eight_extractors_together_stay_within_the_quota_of_a_minute(
    mongod: Mongod, simulator: Simulator, tmp_path: Path, record_property: Any
) -> None:
    rate = burst = 30
    times = race(
        mongod,
        simulator,
        tmp_path / "functions.log",
        route="/quota-of-a-minute",
        pages=20,
        rate=rate,
        burst=burst,
        quota={"requests": rate, "seconds": 60},
    )
    most = most_within(60, times)
    assert most <= rate
    assert len(times) > rate
    record_property("requests", len(times))
    record_property("most within 60 s", f"{most} of {rate}")
