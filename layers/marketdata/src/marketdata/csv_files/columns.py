"""The columns of a CSV under canonical names, a column at a time.

Texts stay texts wherever validation reads them as what they are meant to be: it does so once,
for the whole batch, in compiled code. Only what it would read otherwise is read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from marketdata.csv_files import intervals, numbers, times
from marketdata.csv_files.assets import DOLLAR, is_dollar, pair_of
from marketdata.csv_files.numbers import NumberForm
from marketdata.csv_files.times import TimeForm
from marketdata.documents.raw_batches import StoredLayout
from marketdata.schema import record
from marketdata.schema.record import BadCell, Fault, Table, shown
from marketdata.schema.texts import NO_NAME

SOURCE = "csv"
DEFAULT_DATASET = "csv"

NUMBERS = (
    "price_usd",
    "volume_24h",
    "market_cap",
    "percent_change_24h",
    "volume",
    "base_volume",
    "open",
    "high",
    "low",
)
"""Fields whose cells are numbers."""
FIELDS = record.FIELDS
_ALWAYS = ("price_usd", "volume_24h", "market_cap", "percent_change_24h")
"""Numbers that every record has, be it as None."""
_NAMES_NOTHING = NO_NAME | {"\\N", "<NA>", "#N/A"}
_OTHER_MONEY = re.compile(r"[€£¥₿₩₹]|[A-Za-z]{3}")
_DAY = ("1d", "24h")


def table(cut: Sequence[Sequence[str]], rows: int, layout: StoredLayout) -> Table:
    """Rows under canonical names, without validation.

    Args:
        cut: the columns of cells, as many as the header has.
        rows: the number of cells in each.
        layout: how they are read; see `judging`.
    """
    return _Reader(cut, rows, layout).table()


class _Reader:
    """The columns of some rows, on their way to a table."""

    def __init__(self, cut: Sequence[Sequence[str]], rows: int, layout: StoredLayout) -> None:
        self._cut = cut
        self._rows = rows
        self._layout = layout
        self._constants: Mapping[str, str] = layout.get("constants", {})
        self._faults: dict[int, Fault] = {}
        self._bad_cells: list[BadCell] = []
        self._fields: dict[str, Sequence[Any]] = {}

    def table(self) -> Table:
        fields = self._fields
        for name in NUMBERS:
            if name in _ALWAYS:
                fields[name] = self._numbers(name)
            elif name in self._layout["columns"]:
                values = self._numbers(name)
                if any(value is not None for value in values):
                    fields[name] = values
        self._read_assets()
        fields["timestamp"] = self._times()
        self._read_interval()
        dataset = self._layout["dataset"]
        said = self._cells("dataset")
        fields["dataset"] = [dataset] * self._rows if said is None else _datasets(said, dataset)
        fields["source"] = [SOURCE] * self._rows
        return Table(fields, self._rows, self._faults, self._bad_cells)

    def _cells(self, field: str) -> Sequence[str] | None:
        index = self._layout["columns"].get(field)
        return None if index is None else self._cut[index]

    def _fault(self, row: int, code: str, field: str, message: str) -> None:
        self._faults.setdefault(row, Fault(row, code, field, message))

    def _numbers(self, name: str) -> Sequence[str | None]:
        cells = self._cells(name)
        if cells is None:
            return [None] * self._rows
        stored = self._layout.get("numbers", {}).get(name)
        form = numbers.PLAIN if stored is None else NumberForm.of(stored)
        values, bad = numbers.read(cells, form)
        if name == "price_usd":
            for row, message in bad.items():
                self._fault(row, "float_parsing", name, message)
            if None in values:
                for row, value in enumerate(values):
                    if value is None:
                        self._missing(row, name)
        else:
            self._bad_cells += [
                BadCell(row, name, "float_parsing", shown(cells[row])) for row in bad
            ]
        return values

    def _missing(self, row: int, name: str) -> None:
        message = f"The row does not say its {name}, which it must"
        self._fault(row, "missing_value", name, message)

    def _texts(self, name: str) -> Sequence[str] | None:
        """The values of a text column, after those that say nothing have become faults.

        Returns:
            None if the file has no such column.
        """
        cells = self._cells(name)
        if cells is None:
            return None
        absent = {value for value in set(cells) if value.strip() in _NAMES_NOTHING}
        if absent:
            for row, value in enumerate(cells):
                if value in absent:
                    self._missing(row, name)
        return cells

    def _read_assets(self) -> None:
        fields, rows = self._fields, self._rows
        names = self._cells("name")
        fields["name"] = [None] * rows if names is None else _names(names)
        symbols = self._texts("symbol")
        constant = self._constants.get("symbol", "")
        quotes: list[str] | None = None
        if symbols is None:
            fields["symbol"] = [constant] * rows
        elif "own" in self._layout:
            fields["symbol"] = symbols
        else:
            fields["symbol"], quotes = self._split(symbols)
        ids = self._texts("asset_id")
        if ids is not None:
            fields["asset_id"] = ids
        elif "asset_id" in self._constants:
            fields["asset_id"] = [self._constants["asset_id"]] * rows
        else:
            fields["asset_id"] = _upper(fields["symbol"])
        self._read_quotes(quotes)

    def _split(self, symbols: Sequence[str]) -> tuple[Sequence[str], list[str] | None]:
        """Symbols without their quotes, and these; None if no symbol is a pair."""
        together = self._layout.get("pairs", False)
        pairs = {symbol: pair_of(symbol, together=together) for symbol in set(symbols)}
        if not any(pairs.values()):
            return symbols, None
        bases = {symbol: pair.base if pair else symbol for symbol, pair in pairs.items()}
        quotes = {symbol: pair.quote if pair else "" for symbol, pair in pairs.items()}
        return (
            list(map(bases.__getitem__, symbols)),
            list(map(quotes.__getitem__, symbols)),
        )

    def _read_quotes(self, quotes: list[str] | None) -> None:
        """What prices are quoted in: rows that are not in dollars are at fault."""
        own = self._cells("quote")
        if own is not None:
            self._fields["quote"] = _names(own)
            return
        constant = self._constants.get("currency", DOLLAR)
        column = self._layout.get("currency_column")
        if column is not None:
            said = [cell.strip().upper() for cell in self._cut[column]]
            quotes = [
                own if own and own not in _NAMES_NOTHING else quote
                for own, quote in zip(said, quotes or [constant] * self._rows, strict=True)
            ]
        beside = self._beside_prices()
        if quotes is None and not beside:
            if constant != DOLLAR:
                self._note_quotes([constant] * self._rows)
            return
        found = [quote or constant for quote in quotes or [constant] * self._rows]
        for row, currency in beside.items():
            if is_dollar(found[row]) != is_dollar(currency) or found[row] == DOLLAR:
                found[row] = currency
        self._note_quotes(found)

    def _beside_prices(self) -> dict[int, str]:
        """Currencies that stand beside the price itself, by row."""
        cells = self._cells("price_usd")
        if cells is self._fields["price_usd"]:
            # All are written as a program does.
            return {}
        if cells is None or not _OTHER_MONEY.search("\n".join(cells)):
            return {}
        found = {}
        for row, cell in enumerate(cells):
            if _OTHER_MONEY.search(cell):
                currencies = numbers.examine([cell]).currencies
                if currencies:
                    found[row] = min(currencies)
        return found

    def _note_quotes(self, quotes: Sequence[str]) -> None:
        distinct = set(quotes)
        if distinct == {DOLLAR}:
            return
        for row, quote in enumerate(quotes) if not all(map(is_dollar, distinct)) else ():
            if not is_dollar(quote):
                message = (
                    f"The price is in {quote}, and records are in US dollars. Convert it, or "
                    "upload prices in dollars"
                )
                self._fault(row, "quote_not_usd", "price_usd", message)
        if any(quote != DOLLAR and is_dollar(quote) for quote in distinct):
            self._fields["quote"] = [
                quote if quote != DOLLAR and is_dollar(quote) else None for quote in quotes
            ]

    def _times(self) -> Sequence[str | None]:
        cells = self._cells("timestamp")
        if cells is None:
            return [None] * self._rows
        stored = self._layout.get("times")
        form = TimeForm() if stored is None else TimeForm.of(stored)
        column = None if stored is None else stored.get("time_column")
        values, bad = times.read(cells, form, None if column is None else self._cut[column])
        for row, message in bad.items():
            if cells[row].strip().lower() in numbers.BLANK:
                self._missing(row, "timestamp")
            else:
                self._fault(row, "timestamp_not_understood", "timestamp", message)
        return values

    def _read_interval(self) -> None:
        cells = self._cells("interval")
        fields = self._fields
        if cells is None:
            constant = self._constants.get("interval")
            if constant is not None:
                fields["interval"] = [constant] * self._rows
            return
        known = {cell: _interval(cell) for cell in set(cells)}
        if not any(known.values()):
            return
        fields["interval"] = said = list(map(known.__getitem__, cells))
        volumes = fields["volume_24h"]
        others = set(said) - {None, *_DAY}
        if "own" in self._layout or not others or "volume" in fields:
            return
        # The turnover of an hour is not that of 24 hours.
        if any(value is not None for value in volumes):
            fields["volume"] = [
                value if interval in others else None
                for value, interval in zip(volumes, said, strict=True)
            ]
            fields["volume_24h"] = [
                None if interval in others else value
                for value, interval in zip(volumes, said, strict=True)
            ]


def _interval(cell: str) -> str | None:
    text = cell.strip()
    return None if text in _NAMES_NOTHING else intervals.normalised(text) or text


def _names(values: Sequence[str]) -> Sequence[str | None]:
    absent = {value for value in set(values) if value.strip() in _NAMES_NOTHING}
    return [None if value in absent else value for value in values] if absent else values


def _upper(symbols: Sequence[str]) -> Sequence[str]:
    known = {symbol: symbol.strip().upper() for symbol in set(symbols)}
    return list(map(known.__getitem__, symbols))


def _datasets(values: Sequence[str], default: str) -> Sequence[str]:
    known = {value: value.strip() or default for value in set(values)}
    return list(map(known.__getitem__, values))
