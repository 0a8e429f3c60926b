"""What is done about drift, by source and field: the words of data contracts.

`evolve`      follow it where it is certain, ask where it is not
`quarantine`  always ask: rows that need the field wait
`freeze`      refuse it: the batch fails, and its rows are kept raw
`discard`     do without: the field is left empty, and rows that need it are set aside

The words are those of dlt's schema contracts (evolve, freeze, discard); `quarantine` is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from marketdata.errors import SettingsError
from marketdata.schema.record import FIELDS


class Policy(StrEnum):
    """What is done about drift."""

    EVOLVE = "evolve"
    QUARANTINE = "quarantine"
    FREEZE = "freeze"
    DISCARD = "discard"


_ENTRY = re.compile(r"(?:(\*|[A-Za-z0-9_-]+)(?:\.([a-z0-9_]+))?=)?([a-z]+)")


@dataclass(frozen=True, slots=True)
class Policies:
    """The policy of each source and field; what is said most exactly counts."""

    stated: Mapping[tuple[str, str], Policy] = field(default_factory=dict)
    """By source and field; `*` stands for any source, an empty field for any field."""

    def of(self, source: str, name: str) -> Policy:
        """The policy of a canonical field of a source; `evolve` where nothing is said."""
        for key in ((source, name), ("*", name), (source, ""), ("*", "")):
            if key in self.stated:
                return self.stated[key]
        return Policy.EVOLVE

    @classmethod
    def read(cls, text: str) -> Policies:
        """Policies as the setting `DRIFT_POLICY` has them.

        Args:
            text: entries with commas between them: `freeze` for everything, `coingecko=quarantine`
                for a source, `coingecko.market_cap=discard` for a field of it, `*.price_usd=freeze`
                for a field of all sources.

        Raises:
            SettingsError: names the entry and what is wrong with it.
        """
        stated: dict[tuple[str, str], Policy] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            match = _ENTRY.fullmatch(entry)
            if match is None:
                raise SettingsError(
                    f"DRIFT_POLICY: {entry!r} is no entry. Write source.field=policy, "
                    "source=policy, *.field=policy or policy, with commas between entries."
                )
            source, name, policy = match[1] or "*", match[2] or "", match[3]
            if policy not in set(Policy):
                raise SettingsError(
                    f"DRIFT_POLICY: {policy!r} in {entry!r} is no policy. Policies are "
                    f"{', '.join(Policy)}."
                )
            if name and name not in FIELDS:
                raise SettingsError(
                    f"DRIFT_POLICY: {name!r} in {entry!r} is no field. Fields are "
                    f"{', '.join(FIELDS)}."
                )
            if (source, name) in stated:
                raise SettingsError(
                    f"DRIFT_POLICY: {entry!r} says again what an earlier entry says. Remove one."
                )
            stated[source, name] = Policy(policy)
        return cls(stated)
