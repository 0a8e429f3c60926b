"""The reading of a file while it is being decided: columns, what they claim, what was settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, get_args

from marketdata.csv_files import numbers
from marketdata.csv_files.assets import QUOTES, KeyHints, Pair, pair_of
from marketdata.csv_files.dialect import Dialect
from marketdata.csv_files.evidence import SampledColumn
from marketdata.csv_files.fields import ASSET_UNITS, NUMBERS, Claim, Role, claims_of
from marketdata.csv_files.numbers import NumberForm
from marketdata.csv_files.profiles import Profile
from marketdata.csv_files.times import TimeForm
from marketdata.documents.questions import Answerable, Answers, Choice, Question
from marketdata.documents.runs import ColumnNote
from marketdata.errors import FileRefused
from marketdata.schema.mapping import APPLIED_FROM, QUARANTINED_FROM, key_of

SKIP = "skip"
"""The answer that a column is not to be used."""
ANSWERED = 100_000
"""The rank of what somebody has said."""
PROFILED = 50_000
"""The rank of what a known publisher means, at least."""
_ANSWERABLE: Mapping[str, Claim] = {
    **{role.value: Claim(role, 1.0, ANSWERED) for role in Role if role is not Role.ROW_NUMBER},
    "volume_24h": Claim(Role.VOLUME, 1.0, ANSWERED, "USD", of_a_day=True),
    "volume": Claim(Role.VOLUME, 1.0, ANSWERED, "USD"),
    "base_volume": Claim(Role.VOLUME, 1.0, ANSWERED, ASSET_UNITS),
    "price_usd": Claim(Role.PRICE, 1.0, ANSWERED, "USD"),
    SKIP: Claim(Role.ROW_NUMBER, 1.0, ANSWERED),
}
ANSWERABLE: tuple[str, ...] = get_args(Answerable.__value__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A column with one thing that it may be."""

    column: SampledColumn
    claim: Claim

    @property
    def order(self) -> tuple[int, float]:
        """Of several candidates the highest is preferred."""
        return self.claim.rank, self.claim.confidence


@dataclass
class Draft:
    """All that is known of one file so far."""

    what: str
    """Names the file, for messages."""
    columns: list[SampledColumn]
    rows: Sequence[Sequence[str]]
    """The rows of the sample."""
    dialect: Dialect
    quoted: bool
    """Whether cells with numbers are quoted."""
    hints: KeyHints
    answers: Answers
    profile: Profile | None
    candidates: dict[Role, list[Candidate]] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    """Of each canonical field its column."""
    number_forms: dict[int, NumberForm] = field(default_factory=dict)
    """Of each column that may hold numbers."""
    time_form: TimeForm = field(default_factory=TimeForm)
    time_column: int | None = None
    """The column with the times of day that belong to the dates."""
    currency_column: int | None = None
    constants: dict[str, str] = field(default_factory=dict)
    pairs: bool = False
    """Symbols that are written together, as BTCUSD, are pairs."""
    pair: Pair | None = None
    """Of a file about one pair: what it is."""
    questions: list[Question] = field(default_factory=list)
    notes: dict[int, tuple[str, ColumnNote]] = field(default_factory=dict)
    """What became of each column: `applied`, `quarantined` or `skipped`."""

    @classmethod
    def begin(
        cls,
        what: str,
        columns: list[SampledColumn],
        rows: Sequence[Sequence[str]],
        dialect: Dialect,
        hints: KeyHints,
        answers: Answers,
        profile: Profile | None,
        *,
        quoted: bool,
        units: Sequence[str] = (),
    ) -> Self:
        """A draft with what the names of the columns claim.

        Raises:
            FileRefused: an answer names a column that the file does not have.
        """
        draft = cls(what, columns, rows, dialect, quoted, hints, answers, profile)
        said = draft._answered_columns()
        for column in columns:
            claims = said.get(column.index) or draft._claims(column)
            unit = units[column.index].upper() if column.index < len(units) else ""
            if unit in QUOTES:
                claims = tuple(
                    replace(c, unit=c.unit or unit) if c.role in NUMBERS else c for c in claims
                )
            for claim in claims:
                draft.candidates.setdefault(claim.role, []).append(Candidate(column, claim))
        for found in draft.candidates.values():
            found.sort(key=lambda candidate: candidate.order, reverse=True)
        return draft

    def _answered_columns(self) -> dict[int, tuple[Claim, ...]]:
        found: dict[int, tuple[Claim, ...]] = {}
        for name, to in self.answers.get("columns", {}).items():
            indexes = [c.index for c in self.columns if c.name.strip() == name.strip()]
            if not indexes:
                shown = ", ".join(repr(c.name) for c in self.columns[:40])
                raise FileRefused(
                    f"An answer says what column {name!r} of {self.what} is, which has no such "
                    f"column. Its columns are: {shown}. Nothing was loaded; answer again with one "
                    "of these."
                )
            if to not in _ANSWERABLE:
                raise FileRefused(
                    f"An answer says that column {name!r} of {self.what} is {to!r}, and no record "
                    f"has that. It may be one of: {', '.join(ANSWERABLE)}. Nothing was loaded."
                )
            for index in indexes:
                found[index] = (_ANSWERABLE[to],)
        return found

    def _claims(self, column: SampledColumn) -> tuple[Claim, ...]:
        profile = self.profile
        if profile is None:
            return claims_of(column.name)
        if profile.is_own:
            return _own_claims(column.name)
        key = key_of(column.name.strip("<> "))
        if key in profile.unused:
            return ()
        role = profile.columns.get(key)
        if role is None:
            # A publisher's other columns are none of those that it is known for.
            known = set(profile.columns.values())
            return tuple(
                claim
                for claim in claims_of(column.name)
                if claim.role not in known and claim.confidence >= APPLIED_FROM
            )
        named = next((c for c in claims_of(column.name) if c.role is role), Claim(role, 1.0))
        unit = profile.units.get(key, named.unit)
        if role is Role.VOLUME and profile.shares_unless_pair:
            crypto = self.hints.quote is not None or self._has_pairs()
            unit = "quote" if crypto else ASSET_UNITS
        return (
            replace(
                named,
                confidence=1.0,
                rank=PROFILED + named.rank,
                unit=unit,
                of_a_day=named.of_a_day or (role is Role.VOLUME and profile.volume_of_a_day),
            ),
        )

    def _has_pairs(self) -> bool:
        """Whether some column of symbols has pairs, as BTC-USD."""
        return any(
            pair_of(cell, together=False) is not None
            for column in self.columns
            for claim in claims_of(column.name)
            if claim.role is Role.SYMBOL
            for cell in column.filled[:50]
        )

    def of(self, role: Role, *, at_least: float = QUARANTINED_FROM) -> list[Candidate]:
        """The columns that may be this and are not used yet, the likeliest first."""
        return [
            candidate
            for candidate in self.candidates.get(role, ())
            if candidate.claim.confidence >= at_least and candidate.column.index not in self.notes
        ]

    def use(self, to: str, candidate: Candidate, reason: str = "") -> None:
        """Read a field from a column."""
        self.uses[str(to)] = candidate.column.index
        self.note(candidate, "applied", to, reason or self._why(candidate, to))

    def _why(self, candidate: Candidate, to: str) -> str:
        if candidate.claim.rank >= ANSWERED:
            return "somebody said so"
        if candidate.claim.rank >= PROFILED:
            return f"the header is that of {self.profile.name if self.profile else 'a publisher'}"
        same = key_of(candidate.column.name) == key_of(to)
        return "its name says so" if same else "its name and its values say so"

    def note(self, candidate: Candidate, state: str, to: str, reason: str) -> None:
        """Say what became of a column."""
        note: ColumnNote = {
            "from": candidate.column.name,
            "to": str(to),
            "confidence": round(candidate.claim.confidence, 2),
        }
        if reason:
            note["reason"] = reason
        self.notes[candidate.column.index] = (state, note)

    def skip(self, candidate: Candidate, reason: str) -> None:
        """Leave a column unused."""
        self.note(candidate, "skipped", candidate.claim.role, reason)

    def doubt(self, candidate: Candidate, reason: str, to: str = "") -> None:
        """Leave a column unused, as it might be a field and that is not certain."""
        confidence = min(candidate.claim.confidence, 0.75)
        doubtful = replace(candidate, claim=replace(candidate.claim, confidence=confidence))
        self.note(doubtful, "quarantined", to or candidate.claim.role, reason)

    def ask(self, question: Question) -> None:
        """Ask, unless the same is asked already."""
        asked = [(q["about"], q.get("column")) for q in self.questions]
        if (question["about"], question.get("column")) not in asked:
            self.questions.append(question)

    def ask_column(self, to: str, candidates: Sequence[Candidate], why: str) -> None:
        """Ask which of some columns is a field."""
        choices: list[Choice] = [
            {
                "answer": {"columns": {c.column.name: to}},
                "means": f"column {c.column.name!r} is the {to}"
                + (f", as {c.column.filled[0]!r}" if c.column.filled else ""),
            }
            for c in candidates
        ]
        self.ask({"about": "columns", "text": why, "choices": choices})

    def settle_numbers(self) -> None:
        """Find how numbers are written, of each column that may hold some."""
        columns = {
            candidate.column.index: candidate.column
            for role in NUMBERS
            for candidate in self.of(role)
            if candidate.column.filled
        }
        evidence = {index: column.numbers for index, column in columns.items()}
        for index, found in evidence.items():
            others = [other for place, other in evidence.items() if place != index]
            form = numbers.form_of(
                found,
                others,
                delimiter=self.dialect.delimiter,
                quoted=self.quoted,
                answer=self.answers.get("numbers"),
            )
            if form is not None:
                self.number_forms[index] = form

    def values(self, column: SampledColumn) -> list[float | None]:
        """A column's cells as numbers; None where they are none."""
        form = self.number_forms.get(column.index, numbers.PLAIN)
        read, _ = numbers.read(column.cells, form)
        return [None if value is None else float(value) for value in read]

    def sure(self, role: Role) -> list[Candidate]:
        """Candidates that may be applied."""
        return self.of(role, at_least=APPLIED_FROM)


_OWN_UNUSED = frozenset({"id", "source", "revision"})


def _own_claims(name: str) -> tuple[Claim, ...]:
    """What this service calls a column is what it is."""
    said = name.strip().lower()
    if said in _OWN_UNUSED:
        return ()
    claim = _ANSWERABLE.get(said)
    return () if claim is None or said == SKIP else (replace(claim, rank=PROFILED),)
