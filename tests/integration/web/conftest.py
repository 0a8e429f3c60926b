"""What the tests of several routes need."""

from __future__ import annotations

import pytest

from marketdata.store.connection import Store
from tests.support.gateway import Gateway, WorkflowStarter, make_gateway


@pytest.fixture
def engine() -> WorkflowStarter:
    return WorkflowStarter()


@pytest.fixture
def gateway(store: Store, engine: WorkflowStarter) -> Gateway:
    return make_gateway(lambda: store, engine=engine)
