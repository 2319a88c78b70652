"""Reads files in Chrome's trace event format as a stream of events, in bounded memory.

The format is JSON: an array of events, whose end may be missing, or an object that has the array as
`traceEvents`. msgspec decodes hundreds of events at a time: a piece of the array that starts with an
event and ends before a `,` is valid exactly if it ends with an event. Where no such piece is found
(events of another kind, NaN, damage), a scanner looks for each event's end, and events that cannot
be read are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

import msgspec

from bk_pipeline.sources.streams import Unreadable
from bk_pipeline.text import sanitize_json

Number = float | str | None
Id = int | float | str | None

EVENTS_KEY = "traceEvents"
# Other keys of the object that tell when the profile began.
HEADER_KEYS = frozenset({"otherData", "beginningOfTime"})
MAX_HEADER_BYTES = 1 << 20
MAX_EVENT_BYTES = 4 << 20
MAX_DEPTH = 500
# How many brackets are looked at one by one, which takes a second for a million.
MAX_STEPS = 20_000_000
_WINDOW = 1 << 18
# How many cuts are tried, how many brackets looked at for each, and how much space is before one.
_TRIES, _BRACKETS, _INDENT = 6, 2_000, 64

_SPACE = re.compile(rb"[\s\xef\xbb\xbf]*+")  # a byte order mark counts as one
_BETWEEN = re.compile(rb"[\s,]*+")
_BEFORE_EVENT = re.compile(rb"\}\s*+,\s*+\Z")
_KEY = re.compile(rb'"((?:[^"\\]|\\.){0,200}+)"\s*+:\s*+', re.DOTALL)
# Everything up to a bracket or an unfinished string; the strings on the way are skipped whole.
_UP_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"(?:[^"\\]|\\.)*+"[^"{}\[\]]*+)*+', re.DOTALL)
_SCALAR = re.compile(rb'[^"{}\[\],]*+')
_IN_STRING = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NO_BRACKETS = bytes({*range(256)} - {*b"{}[]"})
_PASSES = 8
_OPENING, _CLOSING = frozenset(b"{["), frozenset(b"}]")
_QUOTE, _BACKSLASH = ord('"'), ord("\\")


class TraceEvent(msgspec.Struct, gc=False):
    """One event of a file. Times are in microseconds, if they are numbers."""

    ph: str = ""
    ts: Number = None
    dur: Number = None
    name: str | None = None
    cat: str | None = None
    pid: Id = None
    tid: Id = None
    args: msgspec.Raw = msgspec.Raw(b"")


_DECODE = msgspec.json.Decoder(TraceEvent).decode
_DECODE_MANY = msgspec.json.Decoder(list[TraceEvent]).decode
_SPLIT = msgspec.json.Decoder(list[msgspec.Raw]).decode
_ERRORS = (msgspec.DecodeError, RecursionError, ValueError)


class TraceFile:
    """A file of trace events.

    Attributes:
        header: The values of `HEADER_KEYS` that have been read so far, as JSON.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.header: dict[str, bytes] = {}
        self._blocks = iter(blocks)
        self._buffer = b""
        self._at = 0  # what comes before has been read
        self._ended = False
        self._steps = 0
        self._problem: Unreadable | None = None

    def batches(self) -> Iterator[list[TraceEvent | None]]:
        """Yield all events in their order; None in place of each that cannot be read.

        Raises:
            Unreadable: The file is no such file, or is damaged; events before that were yielded.
        """
        first = self._next_byte(_SPACE)
        if first == b"[":
            self._at += 1
            yield from self._array(may_be_open=True)
        elif first == b"{":
            self._at += 1
            yield from self._object()
        else:
            self._raise("it is empty" if not first else "it is not JSON")
        if self._problem is not None:
            raise self._problem

    def _object(self) -> Iterator[list[TraceEvent | None]]:
        found = False
        while True:
            byte = self._next_byte(_BETWEEN)
            if byte == b"}":
                if not found:
                    self._raise(f"it has no array {EVENTS_KEY}")
                return
            if not byte:
                self._raise("it ends early")
            self._fill(1024)
            key = _KEY.match(self._buffer, self._at)
            if key is None:
                self._raise("it is not well-formed JSON")
            self._at = key.end()
            name = key[1].decode(errors="replace")
            if name == EVENTS_KEY and self._next_byte(_SPACE) == b"[":
                self._at += 1
                found = True
                yield from self._array(may_be_open=False)
            else:
                value = self._value(MAX_HEADER_BYTES)
                if name in HEADER_KEYS and value is not None:
                    self.header[name] = value

    def _array(self, *, may_be_open: bool) -> Iterator[list[TraceEvent | None]]:
        """Yield the events of an array whose opening bracket has been read."""
        while True:
            byte = self._next_byte(_BETWEEN)
            if byte == b"]":
                self._at += 1
                return
            if not byte:
                if may_be_open and self._problem is None:
                    return
                self._raise("it ends early")
            self._fill(_WINDOW)
            yield self._many() or self._some()

    def _many(self) -> list[TraceEvent | None] | None:
        """Return the events of most of the buffer, if a cut is found quickly."""
        end = len(self._buffer)
        for _ in range(_TRIES):
            end, start = self._cut(end)
            if end < 0:
                return None
            piece = b"[" + self._buffer[self._at : end] + b"]"
            events: list[TraceEvent | None] | None
            try:
                events = [*_DECODE_MANY(piece)]
            except _ERRORS:
                events = _one_by_one(piece)
            if events is not None:
                self._at = start
                return events
        return None

    def _cut(self, before: int) -> tuple[int, int]:
        """Return where an event may end and the next begin, the last such before `before`."""
        at = before
        for _ in range(_BRACKETS):
            at = self._buffer.rfind(b"{", self._at, at)
            if at < 0:
                break
            found = _BEFORE_EVENT.search(self._buffer, max(self._at, at - _INDENT), at)
            if found:
                return found.start() + 1, at
        return -1, -1

    def _some(self) -> list[TraceEvent | None]:
        """Return the next events by looking for the end of each, about a window of them."""
        events: list[TraceEvent | None] = []
        left = _WINDOW
        while left > 0:
            byte = self._next_byte(_BETWEEN)
            if not byte or byte in b"]}":
                if byte == b"}":
                    self._raise("it is not well-formed JSON")
                break
            try:
                value = self._value(MAX_EVENT_BYTES)
            except Unreadable as error:
                self._problem, self._at, self._ended = error, len(self._buffer), True
                break
            events.append(None if value is None else _event(value))
            left -= len(value or b"") + 1
        return events

    def _value(self, most_bytes: int) -> bytes | None:
        """Read the next JSON value, and return it; None if it is longer than `most_bytes`."""
        scanner = _Scanner()
        parts: list[bytes] = []
        length = 0
        while True:
            end = None
            if not (length and scanner.skip(self._buffer[self._at :])):
                end = scanner.end(self._buffer, self._at)
                self._count_steps(scanner)
            part = self._buffer[self._at : end]
            length += len(part)
            parts = [*parts, part] if length <= most_bytes else []
            self._at += len(part)
            if end is not None:
                return b"".join(parts) if length <= most_bytes else None
            if not self._fill(1):
                self._raise("it ends early")

    def _count_steps(self, scanner: _Scanner) -> None:
        self._steps += scanner.steps
        scanner.steps = 0
        if self._steps > MAX_STEPS:
            self._raise("it is damaged in too many places")

    def _next_byte(self, skipped: re.Pattern[bytes]) -> bytes:
        """Skip bytes, and return the next one without reading it; empty at the end."""
        while True:
            found = skipped.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer) or not self._fill(1):
                return self._buffer[self._at : self._at + 1]

    def _fill(self, least: int) -> bool:
        """Read on until `least` bytes are in the buffer; False if the file ends before."""
        length = len(self._buffer) - self._at
        if length >= least:
            return True
        parts = [self._buffer[self._at :]]
        self._at = 0
        while length < least and not self._ended:
            try:
                block = next(self._blocks, None)
            except Unreadable as error:
                block, self._problem = None, error
            if block is None:
                self._ended = True
            else:
                parts.append(block)
                length += len(block)
        self._buffer = b"".join(parts)
        return length >= least

    def _raise(self, message: str) -> NoReturn:
        raise self._problem or Unreadable(message)


class _Scanner:
    """Finds the end of a JSON value that comes in pieces. Brackets are only counted."""

    def __init__(self) -> None:
        self.depth = 0
        self.steps = 0
        self._in_string = self._escaped = False
        self._begun = False

    def skip(self, piece: bytes) -> bool:
        """Go on after `piece` at once; False, and nothing done, if the value may end in it.

        Strings are removed, and then pairs of brackets with nothing else in them, from the inside.
        What is left of brackets tells how deep it goes on.
        """
        if self._in_string or self.depth == 0:
            return False
        rest = _STRING.sub(b"", piece)
        quote = rest.find(b'"')
        brackets = (rest if quote < 0 else rest[:quote]).translate(None, _NO_BRACKETS)
        for _ in range(_PASSES):
            before = len(brackets)
            brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
            if len(brackets) == before:
                break
        closing = sum(map(brackets.count, (b"}", b"]")))
        if closing >= self.depth:
            return False
        self.depth += len(brackets) - 2 * closing
        if quote >= 0:
            found = _IN_STRING.match(rest, quote + 1)
            self._in_string = True
            self._escaped = found is not None and found.end() < len(rest)
        return True

    def end(self, piece: bytes, at: int) -> int | None:
        """Return where the value that goes on at `at` ends in `piece`; None if after it."""
        while at < len(piece):
            if self._in_string:
                at = self._string(piece, at)
                if self._in_string:
                    return None
            elif self.depth == 0:
                found = _SCALAR.match(piece, at)
                at = found.end() if found else at
                if at == len(piece):
                    return None
                if self._begun or piece[at] in b"]},":
                    return at
                at = self._bracket(piece, at)
            else:
                found = _UP_TO_BRACKET.match(piece, at)
                at = found.end() if found else at
                if at < len(piece):
                    at = self._bracket(piece, at)
            if self._begun and self.depth == 0 and not self._in_string:
                return at
        return None

    def _bracket(self, piece: bytes, at: int) -> int:
        byte = piece[at]
        self._begun = True
        self.steps += 1
        self.depth += (byte in _OPENING) - (byte in _CLOSING)
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        self._in_string = byte == _QUOTE
        return at + 1

    def _string(self, piece: bytes, at: int) -> int:
        """Go on in a string; `_in_string` is false if it ends in `piece`."""
        if self._escaped:
            self._escaped, at = False, at + 1
        found = _IN_STRING.match(piece, at)
        at = found.end() if found else at
        if at < len(piece):
            self._in_string = piece[at] != _QUOTE
            self._escaped = self._in_string  # a backslash at the very end
            at += 1
        return at


def _one_by_one(piece: bytes) -> list[TraceEvent | None] | None:
    """Return the events of a valid JSON array, None in place of what is no event."""
    try:
        return [_event(bytes(raw)) for raw in _SPLIT(piece)]
    except _ERRORS:
        return None


def _event(value: bytes) -> TraceEvent | None:
    try:
        return _DECODE(value)
    except _ERRORS:
        pass
    try:
        return _DECODE(sanitize_json(value))
    except _ERRORS:
        return None
