"""A JSON array taken apart as it arrives, element by element, in constant memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from marketdata.errors import MarketDataError, UpstreamMalformed, UpstreamUnavailable

_WHITESPACE = " \t\n\r"
_HEAD = 200
"""Characters of an unexpected payload that an error shows."""
_LARGEST_OBJECT = 64 * 1024
"""Characters of an object in place of a list that are looked at: an error is shorter."""
_FINAL = " Its format has changed, or it is another resource: this run does not ask again."

_NUMBER_GOES_ON = re.compile(r"\.|[eE][+-]?")
"""What can stand between a number's digits: `1.` and `1e-` are the heads of longer numbers."""

_ESCAPE_OR_NUMBER_CUT = re.compile(r"(?:\\(?:u[0-9a-fA-F]{0,4})?|(?<=\d)(?:\.|[eE][+-]?))\Z")
_WORD_AT_END = re.compile(r"-?[A-Za-z]*\Z")
_TOKEN = 16
"""Characters that hold any of these whole, and a word too long to be one of them."""
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


_BRACKET_OR_TEXT = re.compile(r'[\[\]{}]|"(?:[^"\\]++|\\.)*+"|"', re.DOTALL)
"""A bracket, a whole text, or the beginning of a text that has no end."""

_INT_DIGITS = 4_000
"""Python refuses to read whole numbers of more digits than about this."""


class ObjectAnswered(UpstreamMalformed):
    """A source answered an object where a list belongs; `body` is its text, up to a size.

    It may tell an error, which then decides what is done about it.
    """

    def __init__(self, message: str, body: str, head: str) -> None:
        super().__init__(message, head=head)
        self.body = body


def parse(text: str | bytes) -> Any:
    """The value of a JSON text, where a whole number of thousands of digits stays a text.

    Such a number is a fault of its row, and its row is what an error must be about.
    """
    return json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= _INT_DIGITS else digits


def elements(chunks: Iterable[bytes], *, what: str) -> Iterator[str]:
    """The elements of a JSON array, each as the text it was sent as.

    Format: RFC 8259, and also `NaN` and `Infinity`, which some servers write: one such value
    is a fault of its row, not of the whole list. The memory needed is that of one chunk and
    two elements.

    Args:
        chunks: the body, in pieces of any size.
        what: who answered, for messages.

    Raises:
        UpstreamMalformed: the body is not JSON, not UTF-8, or not an array; `ObjectAnswered` if it
            is an object, which may tell an error.
        UpstreamUnavailable: the body ends before the array does: asking again may help.
    """
    body = _Body(chunks, what)
    first = body.peek()
    if first != "[":
        raise body.not_a_list(first)
    body.at += 1
    if body.peek() == "]":
        body.at += 1
    else:
        while True:
            yield body.value()
            separator = body.peek()
            body.at += 1
            if separator == "]":
                break
            if separator != ",":
                raise body.broken("a comma or the end of the list is missing", body.at - 1)
    if body.peek():
        raise body.broken("there is more after the end of the list", body.at)


def document(
    chunks: Iterable[bytes], *, what: str, parse_number: Callable[[str], Any] | None = None
) -> Any:
    """The value of a body that is one JSON text, such as an object.

    Args:
        chunks: the body, in pieces of any size.
        what: who answered, for messages.
        parse_number: makes a number of its digits, where Python's own would lose some.

    Raises:
        UpstreamMalformed: the body is not JSON, not UTF-8, or nested too deeply.
        UpstreamUnavailable: the body ends before the value does: asking again may help.
    """
    body = _Body(chunks, what)
    while body.more():
        pass
    text = body.text
    if not text.strip(_WHITESPACE):
        raise body.empty()
    try:
        return json.loads(
            text,
            parse_int=parse_number or _whole_number,
            parse_float=parse_number,
            parse_constant=parse_number,
        )
    except RecursionError:
        why = f"answered JSON that is nested too deeply. It begins: {text[:_HEAD]!r}."
        raise UpstreamMalformed(f"{what} {why}{_FINAL}", head=text[:_HEAD]) from None
    except json.JSONDecodeError as fault:
        if body.may_go_on(fault):
            raise UpstreamUnavailable(
                f"{what} answered JSON that ends after {len(text)} characters, before its end: "
                "the transfer was cut off. Asking again later may help."
            ) from None
        raise body.broken(fault.msg, fault.pos) from None


class _Body:
    """The part of the text that was received and not yet used."""

    def __init__(self, chunks: Iterable[bytes], what: str) -> None:
        self.text = ""
        self.at = 0
        self._chunks = iter(chunks)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        # Values are only delimited here, so numbers stay texts: one of thousands of digits
        # is more than `int` takes, and a matter of its row.
        self._scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
        self._what = what
        self._rows = 0

    def more(self, characters: int = 1) -> bool:
        """Receive at least so many characters more; False at the end of the body.

        What was used up is let go, so positions in `text` change.
        """
        parts, received, chunk = [self.text[self.at :]], 0, None
        while received < characters:
            chunk = next(self._chunks, None)
            try:
                parts.append(self._decode(chunk or b"", chunk is None))
            except UnicodeDecodeError as error:
                raise self._not_utf8(error, at_end=chunk is None) from None
            if chunk is None:
                break
            received += len(parts[-1])
        self.text, self.at = "".join(parts), 0
        return chunk is not None

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the body."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in _WHITESPACE:
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def value(self) -> str:
        """The text of the next element.

        It is whole once something follows it: the `1` of a chunk may be the head of `12`.
        """
        self.peek()
        ended = False
        while True:
            try:
                _, end = self._scan(self.text, self.at)
            except RecursionError:
                # A matter of its row, like a number of thousands of digits.
                found = self._end_of_brackets()
                if found is not None:
                    end = found
                    break
            except json.JSONDecodeError as fault:
                if not self.may_go_on(fault):
                    raise self.broken(fault.msg, fault.pos) from None
            else:
                if end < len(self.text) and not _NUMBER_GOES_ON.fullmatch(self.text, end):
                    break
            if ended:
                raise UpstreamUnavailable(
                    f"{self._what} answered JSON that ends within row {self._rows + 1}: "
                    "the transfer was cut off. Asking again later may help."
                )
            # As much again as was in vain: an element is scanned a few times only, however
            # many chunks it comes in.
            ended = not self.more(max(1, len(self.text) - self.at))
        text, self.at = self.text[self.at : end], end
        self._rows += 1
        return text

    def _end_of_brackets(self) -> int | None:
        """Where the value that begins with a bracket ends; None if more of it is to come.

        Only brackets and texts are looked at: whether what is between them is JSON is for whoever
        reads the row to find.
        """
        depth = 0
        for token in _BRACKET_OR_TEXT.finditer(self.text, self.at):
            if token[0] in "[{":
                depth += 1
            elif token[0] in "]}":
                depth -= 1
                if not depth:
                    return token.end()
            elif len(token[0]) == 1:
                # A text that has not ended yet.
                return None
        return None

    def broken(self, why: str, at: int) -> MarketDataError:
        head = self.text[at : at + _HEAD]
        if not head:
            return UpstreamUnavailable(
                f"{self._what} answered a list that ends after {self._rows} whole rows without "
                "its closing bracket: the transfer was cut off. Asking again later may help."
            )
        return UpstreamMalformed(
            f"{self._what} answered broken JSON after row {self._rows}: {why}: "
            f"{head[:60]!r}.{_FINAL}",
            head=head,
        )

    def empty(self) -> MarketDataError:
        return UpstreamUnavailable(
            f"{self._what} answered an empty body. Asking again later may help."
        )

    def not_a_list(self, first: str) -> MarketDataError:
        wanted = _LARGEST_OBJECT if first == "{" else _HEAD
        while len(self.text) - self.at < wanted and self.more():
            pass
        head = self.text[self.at : self.at + _HEAD].strip()
        if not head:
            return self.empty()
        kind = {"{": "a JSON object", "<": "markup (HTML or XML)"}.get(first, "something else")
        message = (
            f"{self._what} answered {kind} where a JSON list of rows belongs. It begins: "
            f"{head!r}.{_FINAL}"
        )
        if first == "{":
            return ObjectAnswered(message, self.text[self.at :], head)
        return UpstreamMalformed(message, head=head)

    def may_go_on(self, fault: json.JSONDecodeError) -> bool:
        """Whether a fault is only that the text stops here, so that more of it could mend it."""
        if fault.msg.startswith("Unterminated string") or fault.pos >= len(
            self.text.rstrip(_WHITESPACE)
        ):
            return True
        before = max(0, len(self.text) - _TOKEN)
        tail = self.text[before:]
        token = _ESCAPE_OR_NUMBER_CUT.search(tail)
        if token is None:
            token = _WORD_AT_END.search(tail)
            if token is None or not any(word.startswith(token[0]) for word in _LITERALS):
                return False
        return fault.pos >= before + token.start()

    def _not_utf8(self, error: UnicodeDecodeError, *, at_end: bool) -> MarketDataError:
        if at_end:
            return UpstreamUnavailable(
                f"{self._what} answered text that ends within a character, after row "
                f"{self._rows}: the transfer was cut off. Asking again later may help."
            )
        return UpstreamMalformed(
            f"{self._what} answered bytes that are not UTF-8 after row {self._rows}: "
            f"{error}.{_FINAL}"
        )
