"""Which asset a row is about, and in which currency its price is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from marketdata.csv_files.assets import CURRENCIES, STABLECOINS, Pair, is_dollar, pair_of
from marketdata.csv_files.draft import ANSWERED, Candidate, Draft
from marketdata.csv_files.fields import Role
from marketdata.documents.questions import Choice
from marketdata.errors import FileRefused
from marketdata.schema.mapping import APPLIED_FROM
from marketdata.schema.texts import NO_NAME

_LONGEST_SYMBOL = 64
_MOSTLY = 0.9


def settle(draft: Draft) -> None:
    """Choose the symbol, the asset's id, its name and the currency."""
    _see_coins_in_currencies(draft)
    _settle_symbol(draft)
    _settle_id(draft)
    _settle_name(draft)
    _settle_currency(draft)


def _see_coins_in_currencies(draft: Draft) -> None:
    """A column `Currency` of BTC and ETH, in a file without symbols, says what is priced."""
    if any(map(_are_symbols, draft.sure(Role.SYMBOL))) or "symbol" in draft.answers:
        return
    for candidate in draft.sure(Role.CURRENCY):
        words = {cell.upper() for cell in candidate.column.filled}
        if candidate.claim.rank < ANSWERED and words and not words & (CURRENCIES | STABLECOINS):
            claim = replace(candidate.claim, role=Role.SYMBOL)
            draft.candidates[Role.CURRENCY].remove(candidate)
            draft.candidates.setdefault(Role.SYMBOL, []).append(replace(candidate, claim=claim))


def _settle_symbol(draft: Draft) -> None:
    answered = draft.answers.get("symbol")
    found = [c for c in draft.sure(Role.SYMBOL) if _are_symbols(c)]
    _leave_other_symbols(draft, found)
    if answered:
        draft.pair = pair_of(answered, together=False)
        draft.constants["symbol"] = draft.pair.base if draft.pair else answered.strip().upper()
        for candidate in found:
            draft.skip(candidate, "the symbol was given with the file")
    elif found:
        draft.use("symbol", found[0])
        draft.pairs = _are_pairs(found[0])
        for other in found[1:]:
            draft.skip(other, f"column {found[0].column.name!r} is the symbol")
    elif draft.hints.symbol is not None:
        draft.constants["symbol"] = draft.hints.symbol
        if draft.hints.quote is not None:
            draft.pair = Pair(draft.hints.symbol, draft.hints.quote)
    else:
        _ask_symbol(draft)


def _leave_other_symbols(draft: Draft, found: Sequence[Candidate]) -> None:
    """Say of columns that are no symbols why."""
    for candidate in draft.of(Role.SYMBOL):
        if candidate in found:
            continue
        if not candidate.column.filled:
            draft.skip(candidate, "it is empty")
        elif candidate.claim.confidence >= APPLIED_FROM:
            draft.skip(candidate, "its values are no symbols")
        else:
            draft.doubt(candidate, "its name does not say so for certain")


def _ask_symbol(draft: Draft) -> None:
    choices: list[Choice] = []
    if draft.hints.suggestion is not None:
        symbol = draft.hints.suggestion
        choices.append({"answer": {"symbol": symbol}, "means": f"all rows are about {symbol}"})
    texts = [
        c
        for c in draft.columns
        if c.index not in draft.notes and c.filled and not c.are_numbers and not c.are_times
    ]
    choices += [
        {
            "answer": {"columns": {c.name: "symbol"}},
            "means": f"column {c.name!r} is the symbol, as {c.filled[0]!r}",
        }
        for c in texts[:5]
        if len(c.filled[0]) <= _LONGEST_SYMBOL
    ]
    shown = ", ".join(repr(column.name) for column in draft.columns[:40])
    draft.ask(
        {
            "about": "symbol",
            "text": f"Which asset is {draft.what} about? No column is its symbol (the columns are: "
            f"{shown}), and neither the key nor the metadata says it. Answer with "
            '{"symbol": "BTC"}, or upload the file again with the metadata x-amz-meta-symbol, '
            "under "
            "a key like incoming/BTC/… or with a column `symbol`.",
            "choices": choices,
        }
    )


def _are_symbols(candidate: Candidate) -> bool:
    """Whether cells can be symbols: short texts, nearly none of them a time or a number.

    There are tickers that are numbers (000001.SZ, 1INCH); a column of nothing but numbers whose
    name does not say symbol for certain is none.
    """
    column = candidate.column
    filled = column.filled
    if not filled or max(map(len, filled)) > _LONGEST_SYMBOL:
        return bool(filled) and sum(len(c) > _LONGEST_SYMBOL for c in filled) <= len(filled) / 10
    if column.counts or column.times.times >= _MOSTLY * len(filled):
        return False
    if column.are_numbers:
        return candidate.claim.canonical and column.integers is not None and not column.unique
    return not all(" " in cell.strip() for cell in filled)


def _are_pairs(candidate: Candidate) -> bool:
    """Whether every symbol is a pair, so that those written together are, too."""
    distinct = {cell for cell in candidate.column.filled if cell not in NO_NAME}
    return bool(distinct) and all(pair_of(cell, together=True) is not None for cell in distinct)


def _settle_id(draft: Draft) -> None:
    answered = draft.answers.get("asset_id")
    if answered:
        draft.constants["asset_id"] = answered.strip()
    symbols = _cells(draft, "symbol")
    for candidate in draft.of(Role.ASSET_ID):
        why = _is_no_id(candidate, symbols, draft)
        if why is not None:
            draft.skip(candidate, why)
        elif candidate.claim.confidence < APPLIED_FROM:
            draft.doubt(candidate, "its name does not say so for certain")
        elif answered or "asset_id" in draft.uses:
            draft.skip(candidate, "the asset's id is known already")
        else:
            draft.use("asset_id", candidate)
    if "symbol" in draft.constants and "asset_id" in draft.uses:
        return
    if "symbol" in draft.constants and "asset_id" not in draft.constants:
        draft.constants["asset_id"] = draft.constants["symbol"]


def _is_no_id(candidate: Candidate, symbols: Sequence[str], draft: Draft) -> str | None:
    """Why a column is no asset's id; None if it may be one."""
    column, rows = candidate.column, len(candidate.column.filled)
    one_asset = "symbol" in draft.constants
    repeated = len(symbols) - len(set(symbols))
    drawn = column.integers is not None or column.opaque
    differs = column.unique and (
        (drawn and (one_asset or repeated > 0)) or one_asset or repeated > rows / 2
    )
    why = {
        "it is empty": not rows,
        "it counts the rows": column.counts,
        "it differs in every row while symbols repeat": differs,
        "it is an id that a program has drawn for each row": column.unique and column.opaque,
        "one row does not tell whether it is the asset's id or the row's": rows == 1
        and column.integers is not None,
        "its values are times": column.times.times == rows and not column.are_numbers,
    }
    if candidate.claim.rank >= ANSWERED and rows:
        return None
    return next((reason for reason, holds in why.items() if holds), None)


def _settle_name(draft: Draft) -> None:
    for candidate in draft.of(Role.NAME):
        if candidate.claim.confidence < APPLIED_FROM:
            draft.doubt(candidate, "its name does not say so for certain")
        elif "name" in draft.uses:
            draft.skip(candidate, "the name is known already")
        elif candidate.column.filled and candidate.column.are_numbers:
            draft.skip(candidate, "its values are numbers")
        else:
            draft.use("name", candidate)


def _cells(draft: Draft, field: str) -> list[str]:
    index = draft.uses.get(field)
    return [] if index is None else draft.columns[index].filled


def _settle_currency(draft: Draft) -> None:
    """The currency of prices: an answer, a column, the pair, the price's column, then the key.

    Where nothing names one, prices are in dollars: nearly all files of market data are, and
    nothing in such a file could be asked about.

    Raises:
        FileRefused: two of them name different ones.
    """
    answered = draft.answers.get("currency")
    named = draft.constants.pop("currency", None)
    for candidate in draft.of(Role.CURRENCY):
        column = candidate.column
        words = {cell.upper() for cell in column.filled}
        if not words or not all(word.isalpha() and 2 <= len(word) <= 6 for word in words):  # noqa: PLR2004
            draft.skip(candidate, "its values are no currencies")
        elif answered or draft.currency_column is not None:
            draft.skip(candidate, "the currency is known already")
        elif candidate.claim.confidence >= APPLIED_FROM:
            draft.currency_column = column.index
            draft.note(candidate, "applied", "currency", "its values are currencies")
    if answered:
        draft.constants["currency"] = answered.strip().upper()
        return
    hinted = draft.pair.quote if draft.pair else draft.hints.quote
    signs = _signs(draft)
    if len(signs) > 1:
        # Each row says its own; those that are not in dollars are set aside when they are read.
        return
    found = named or hinted
    if signs and found is not None and is_dollar(found) != is_dollar(next(iter(signs))):
        sign = next(iter(signs))
        raise FileRefused(
            f"{draft.what} says in one place that its prices are in {found} and in another that "
            f"they are in {sign}. Nothing was loaded. Answer with the currency that is right, as "
            f'{{"currency": "{sign}"}}, or correct the file.'
        )
    found = found or next(iter(signs), None)
    if found is not None and found != "USD":
        draft.constants["currency"] = found


def _signs(draft: Draft) -> frozenset[str]:
    """Currencies that stand beside the prices themselves."""
    index = draft.uses.get("price_usd")
    return frozenset() if index is None else draft.columns[index].numbers.currencies
