"""What the tests of several routes need."""

from __future__ import annotations

import pytest

from marketdata.store.connection import Store
from tests.support.gateway import Engine, Gateway, make_gateway


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def gateway(store: Store, engine: Engine) -> Gateway:
    return make_gateway(lambda: store, engine=engine)
