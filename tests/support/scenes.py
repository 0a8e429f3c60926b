"""Rows of which every one is of another kind, for tests of what a crash may leave."""

from __future__ import annotations

from tests.support.pipeline import coin

BEFORE = (coin("known"), coin("changed"), coin("both"))
"""What is loaded already."""
NEWER = (coin("late", current_price=9), coin("moved"))
"""What is loaded already, though it was received later."""
MIXED = (
    coin("new"),
    coin("known"),
    coin("changed", current_price=2),
    coin("late", current_price=3),
    coin("moved"),
    coin("twice", current_price=1),
    coin("twice", current_price=2),
    coin("both", current_price=4),
    coin("both"),
    coin("bad", current_price=0),
    coin("new"),
)
"""New, known, changed, changed with an older time of receipt, known with an older time of receipt,
twice in the batch, and bad."""
