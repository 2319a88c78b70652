"""Scans a log as a stream: its sections, commands, and the text in which a failure is looked for.

Headers are found with one regular expression over large blocks, so that a log of 1 GiB takes seconds
and constant memory. Nothing depends on how the stream is cut into chunks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import cast

import msgspec

from bk_pipeline.sources.failure import TAIL_BYTES, Failure, failure_of
from bk_pipeline.sources.headers import (
    CODE,
    LONGEST_LINE_BYTES,
    Phase,
    header_text,
    is_expansion,
    phase_of,
)
from bk_pipeline.sources.terminal import COLOR, STAMP, plain
from bk_pipeline.units import NS_PER_MS, NS_PER_S

# The first and the last sections of a log with more; those between are counted.
FIRST_SECTIONS, LAST_SECTIONS = 700, 300
MOST_COMMANDS = 2_000
_BLOCK_BYTES = 1 << 20
# Each begins with the line break before its line, so no expression looks at the inside of lines.
_START = rb"\n(?:" + CODE + rb")*+(?:" + STAMP + rb"(?:" + CODE + rb")*+)?"
_HEADERS = rb"([-+~])(?:" + CODE + rb")*+\2|\^\^\^|\xf0\x9f\x9a\xa8 Error"
_COMMANDS = rb"([$+])(?:" + CODE + rb")*+ "
_HEADER_GROUP, _COMMAND_GROUP = 2, 3
_CANDIDATE = re.compile(_START + rb"(?:" + _HEADERS + rb")")
_CANDIDATE_OR_COMMAND = re.compile(_START + rb"(?:" + _HEADERS + rb"|" + _COMMANDS + rb")")
_MARKERS = re.compile(rb"\x1b_bk;t=(\d{1,19})\x07")
_STAMPS = re.compile(rb"\n" + STAMP)
# The rest of a marker, where a request for the tail of a log has cut it.
_CUT_MARKER = re.compile(rb"(?:(?:(?:(?:(?:_?b)?k)?;)?t)?(=))?(\d{0,19})\x07")
_COMMAND = re.compile(r"[$+] (\S.*)", re.DOTALL)
_CODES = re.compile(rb"\x1b_bk;t=(\d{1,19})\x07|" + COLOR)


class Section(msgspec.Struct):
    """A section while the log is read. `header` counts the headers of the log; None without one."""

    index: int
    header: int | None
    offset: int
    name: str | None
    phase: Phase
    time_ns: int | None = None
    before_ns: int | None = None
    after_ns: int | None = None
    expanded: bool = False
    bytes: int = 0
    lines: int = 0
    next_ns: int | None = None
    guessed: bool = False


class Command(msgspec.Struct):
    """A command that the log shows: its section, its place in the log, its text and time."""

    section: int
    offset: int
    text: str
    time_ns: int | None


def blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Join and cut `chunks` to blocks that begin with a line break.

    A line break is added before the first line. Only a line that is too long for a header can
    be continued in the next block, which then has no line break at its beginning.
    """
    parts, size = [b"\n"], 1
    for chunk in chunks:
        for at in range(0, len(chunk), _BLOCK_BYTES):
            parts.append(chunk[at : at + _BLOCK_BYTES])
            size += len(parts[-1])
            if size < _BLOCK_BYTES:
                continue
            data = b"".join(parts)
            cut = max(data.rfind(b"\n", 1), 0)
            if size - cut > 2 * LONGEST_LINE_BYTES:
                cut = size  # inside of a line that is no header; nothing else is read of it
            elif cut == 0:
                parts = [data]
                continue
            yield data[:cut]
            parts, size = [data[cut:]], size - cut
    yield b"".join(parts)


class Scan:
    """Reads blocks, and keeps sections, commands and the text in which a failure is looked for."""

    def __init__(self, *, commands: bool) -> None:
        self.first: list[Section] = []
        self.last: deque[Section] = deque(maxlen=LAST_SECTIONS)
        self.commands: list[Command] = []
        self.omitted_commands = 0
        self.count = self.headers = self.lines = 0
        self.bytes = -1  # for the line break before the first line
        self._candidates = _CANDIDATE_OR_COMMAND if commands else _CANDIDATE
        self._current = Section(index=0, header=None, offset=0, name=None, phase=Phase.OTHER)
        self._head = b""
        self._phase = Phase.OTHER
        self._stamp_ns: int | None = None
        self._recent = b""
        self._failed: tuple[int, bytes] | None = None

    def read(self, block: bytes) -> None:
        """Read the next block."""
        if self.bytes < 0:
            self._begin(block)
        stamped = b"\n[20" in block
        done = 0
        for found in self._candidates.finditer(block):
            if found.lastindex == _COMMAND_GROUP and len(self.commands) == MOST_COMMANDS:
                self.omitted_commands += 1
                continue
            start = found.start() + 1
            end = block.find(b"\n", start, start + LONGEST_LINE_BYTES + 1)
            if end < 0 and len(block) - start > LONGEST_LINE_BYTES:
                continue
            line = block[start : end if end >= 0 else len(block)]
            header = header_text(line) if found[_HEADER_GROUP] and not found[1] else None
            if header is None:
                self._note(block, start, line, found[1])
                continue
            self._extend(block, done, start - 1, stamped=stamped)
            done = start - 1
            self._open(line, header, self.bytes + start)
        self._extend(block, done, len(block), stamped=stamped)
        self._recent = (self._recent + block[-TAIL_BYTES:])[-TAIL_BYTES:]
        self.bytes += len(block)

    def finish(self) -> None:
        """End the last section, which has one byte too many: the line break before the first line."""
        self._current.bytes -= 1
        if self._recent.endswith(b"\n"):
            self._current.lines -= 1
            self.lines -= 1
        self._add_current()

    def sections(self, header_times: Sequence[int] | Callable[[], Sequence[int]]) -> list[Section]:
        """Return the sections that are kept, with their times where these are known."""
        sections = [*self.first, *self.last]
        headers = [one for one in sections if one.header is not None]
        if headers and all(one.time_ns is None for one in headers):
            times = header_times() if callable(header_times) else header_times
            _add_times(headers, sorted(times), self.headers)
        return sections

    def failure(
        self, exit_status: int | None, signal_reason: str | None, state: str | None
    ) -> Failure | None:
        """Return why the job failed, with the offset in the log at which the message stands."""
        if exit_status is None and signal_reason is None and not self._failed:
            return None
        offset, raw = self._failed or (self.bytes - len(self._recent), self._recent)
        failure = failure_of(raw, exit_status=exit_status, signal_reason=signal_reason, state=state)
        if failure and failure.offset is not None:
            failure.offset += offset
        return failure

    def _begin(self, block: bytes) -> None:
        """Read the beginning of the log, which is inside a marker if the log is a tail."""
        self._head = block[1 : 1 + LONGEST_LINE_BYTES]
        cut = _CUT_MARKER.match(self._head)
        whole = _MARKERS.match(self._head)
        if whole:
            self._current.time_ns = int(whole[1]) * NS_PER_MS
        if not cut:
            return
        if cut[1] and cut[2]:
            self._current.time_ns = int(cut[2]) * NS_PER_MS
        line = self._head[cut.end() :].split(b"\n", 1)[0]
        header = header_text(line)
        if header is not None:
            time_ns = self._current.time_ns
            self._open(line, header, 0)
            self._current.time_ns = time_ns

    def _open(self, line: bytes, header: bytes, offset: int) -> None:
        """Begin the section of a header."""
        self._add_current()
        name = plain(header.split(b"\r", 1)[0])
        self._phase = phase_of(line, name) or self._phase
        time_ns = _marked_ns(line)
        self._current.next_ns = time_ns
        self._current = Section(
            index=self.count,
            header=self.headers,
            offset=offset,
            name=name,
            phase=self._phase,
            time_ns=time_ns,
            before_ns=self._stamp_ns,
        )
        self.headers += 1

    def _extend(self, block: bytes, start: int, end: int, *, stamped: bool) -> None:
        """Count what `block` has between two offsets into the current section."""
        current = self._current
        current.bytes += end - start
        lines = block.count(b"\n", start, end)
        current.lines += lines
        self.lines += lines
        if not stamped:
            return
        first = _STAMPS.search(block, start, end) if current.after_ns is None else None
        if first:
            current.after_ns = _stamp_ns(first[1])
        at = end
        while (at := block.rfind(b"\n[20", start, at)) >= 0:
            last = _STAMPS.match(block, at, end)
            if last:
                self._stamp_ns = _stamp_ns(last[1])
                return

    def _add_current(self) -> None:
        """Keep the section that ends, unless it is nothing visible before the first header."""
        current = self._current
        shown = self._head[: max(current.bytes, 0)]
        if current.header is None and current.bytes <= len(shown) and not plain(shown).strip():
            return
        self.count += 1
        if len(self.first) < FIRST_SECTIONS:
            self.first.append(current)
        else:
            self.last.append(current)

    def _note(self, block: bytes, start: int, line: bytes, stamp: bytes | None) -> None:
        """Note a line that begins no section: an expansion, the agent's error, a command."""
        if is_expansion(line):
            self._current.expanded = True
            return
        text = plain(line if stamp is None else line.replace(b"[" + stamp + b"] ", b"", 1))
        if text.startswith("\U0001f6a8 Error"):
            if not self._failed:
                raw = (self._recent + block[: start + len(line)])[-TAIL_BYTES:]
                self._failed = (self.bytes + start + len(line) - len(raw), raw)
            return
        found = _COMMAND.match(text)
        if not found:
            return
        self.commands.append(
            Command(
                section=self._current.index,
                offset=self.bytes + start,
                text=found[1],
                time_ns=_marked_ns(line) or (stamp and _stamp_ns(stamp)) or None,
            )
        )


def _marked_ns(line: bytes) -> int | None:
    """Return the time of the last marker in front of the text of a line."""
    found = None
    at = 0
    while code := _CODES.match(line, at):
        found = code[1] or found
        at = code.end()
    return None if found is None else int(found) * NS_PER_MS


def _stamp_ns(stamp: bytes) -> int | None:
    try:
        return int(datetime.fromisoformat(stamp.decode()).timestamp()) * NS_PER_S
    except ValueError:
        return None


def _add_times(sections: list[Section], header_times: list[int], headers: int) -> None:
    """Give sections that have a header the times that the API or the stamps of lines have.

    If the API has as many times as there are headers, each header has its own. Otherwise that is a
    guess: the times are in order, but some are of lines that are no headers, or the last are
    missing. Of those that a header can have, the first that the stamps around it allow is taken.
    """
    spare = len(header_times) - headers
    for one in sections:
        at = cast("int", one.header)
        possible = header_times[at : at + max(spare, 0) + 1]
        fitting = [time_ns for time_ns in possible if _fits(time_ns, one)]
        one.time_ns = next(iter(fitting or possible), None)
        one.guessed = spare != 0
        if one.time_ns is None:
            one.time_ns = one.after_ns if one.after_ns is not None else one.before_ns
            one.guessed = not 0 <= (one.after_ns or 0) - (one.before_ns or 0) <= NS_PER_S


def _fits(time_ns: int, section: Section) -> bool:
    """Return whether a time is possible between the stamps of the lines around a header."""
    return (section.before_ns or 0) <= time_ns and (
        section.after_ns is None or time_ns < section.after_ns + NS_PER_S
    )
