"""The forms of texts that clients send, as regular expressions.

Each has a sentence for people in `problems`, which is what a client is told.
"""

from __future__ import annotations

FILENAME = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,120}\.([cCtT][sS][vV]|[tT][xX][tT])(\.[gG][zZ])?$"
CURRENCY = r"^[A-Za-z0-9]{2,10}$"
DATASET = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
REASON = r"^[a-z0-9_.]{1,64}$"
RUN_ID = r"^[A-Za-z0-9_.:-]{1,128}$"
