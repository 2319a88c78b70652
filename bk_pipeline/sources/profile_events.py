"""Selects the longest events of a profile, and finds out which contains which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from heapq import heappush, heappushpop, nlargest

import msgspec

from bk_pipeline.sources.model import DetailSpan
from bk_pipeline.sources.texts import clean_name
from bk_pipeline.sources.timestamps import LAST_NS
from bk_pipeline.sources.trace_events import Id, Number, TraceEvent

MOST_US = LAST_NS / 1_000
# Ends of events are rounded apart: one that ends this much after its parent is still in it.
_SLOP_NS = 1_000
# Events are kept until their depth is known, which takes all that contain them.
_LEAST_CANDIDATES, _CANDIDATES_EACH = 20_000, 4
_MOST_OPEN = 100_000
_MOST_NAMES = 10_000

Thread = tuple[str, str]


class EventPolicy(msgspec.Struct, frozen=True):
    """Which events of a profile become spans.

    Attributes:
        min_ms: The least length, in milliseconds.
        max_depth: How many levels of events there are below a thread.
        max_events: The most events of a file; the longest are kept.
    """

    min_ms: float = 100.0
    max_depth: int = 5
    max_events: int = 1_000


class Profile(msgspec.Struct):
    """The profile of a file.

    Attributes:
        spans: Threads and events; a parent comes before what it contains.
        events: How many complete events the file has.
        too_short: How many of them are shorter than `EventPolicy.min_ms`.
        too_deep: How many of the others are deeper than `EventPolicy.max_depth`.
        outside: How many of the others are not in the time of the job.
        left_out: How many of the others did not become spans because there were too many.
        unreadable: How many entries are no events, or have no usable times.
        problem: Why the file was not read to its end, as a part of a sentence; None if it was.
    """

    spans: list[DetailSpan] = []
    events: int = 0
    too_short: int = 0
    too_deep: int = 0
    outside: int = 0
    left_out: int = 0
    unreadable: int = 0
    problem: str | None = None


class Event(msgspec.Struct, order=True, gc=False):
    """A complete event. The order is that of its length, and of events as long, first ones last.

    Attributes:
        length_ns: How long it took.
        minus_index: The negative of its place in the file, from 1.
        start_ns: When it began, on the profile's clock.
        thread: The ids of its process and thread.
        name: Its name.
        category: Its categories.
        parent: The index of the event that contains it.
        depth: How many events contain it.
    """

    length_ns: int
    minus_index: int
    start_ns: int
    thread: Thread
    name: str
    category: str
    parent: int | None = None
    depth: int = 0

    @property
    def end_ns(self) -> int:
        """When it ended, on the clock of `start_ns`."""
        return self.start_ns + self.length_ns


class LongestEvents:
    """Collects the longest events, and the names of threads."""

    def __init__(self, policy: EventPolicy) -> None:
        self.profile = Profile(spans=[])
        self.candidates: list[Event] = []
        self.threads: dict[Thread, str] = {}
        self.processes: dict[str, str] = {}
        self.open_events = 0
        self._open: defaultdict[Thread, list[tuple[int, TraceEvent]]] = defaultdict(list)
        self._min_us = self._least_us = policy.min_ms * 1_000
        self._most = max(_LEAST_CANDIDATES, _CANDIDATES_EACH * policy.max_events)
        self._index = 0

    def add(self, batch: Iterable[TraceEvent | None]) -> None:
        """Take the next events of the file."""
        index, min_us, least_us = self._index, self._min_us, self._least_us
        short = shorter = 0
        for event in batch:
            index += 1
            if event is None:
                self.profile.unreadable += 1
            elif event.ph == "X":
                length_us, start_us = event.dur, event.ts
                if (
                    type(length_us) is float
                    and 0 <= length_us < least_us
                    and type(start_us) is float
                    and -MOST_US < start_us < MOST_US
                ):  # most are; look no further
                    shorter += 1
                    short += length_us < min_us
                else:
                    self._add(index, event, microseconds(start_us), microseconds(length_us))
                    least_us = self._least_us
            else:
                self._add_other(index, event)
                least_us = self._least_us
        self._index = index
        self.profile.events += shorter
        self.profile.too_short += short
        self.profile.left_out += shorter - short

    def _add_other(self, index: int, event: TraceEvent) -> None:
        if event.ph == "B":
            self._begin(index, event)
        elif event.ph == "E":
            self._end(event)
        elif event.ph == "M":
            self._name(event)

    def _add(
        self, index: int, event: TraceEvent, start_us: float | None, length_us: float | None
    ) -> None:
        if start_us is None or length_us is None or length_us < 0:
            self.profile.unreadable += 1
            return
        if length_us < self._least_us:
            self._count(length_us)
            return
        self.profile.events += 1
        start_ns = nanoseconds(start_us)
        found = Event(
            nanoseconds(start_us + length_us) - start_ns,
            -index,
            start_ns,
            (_id(event.pid), _id(event.tid)),
            clean_name(event.name or ""),
            clean_name(event.cat or ""),
        )
        if len(self.candidates) < self._most:
            heappush(self.candidates, found)
            return
        heappushpop(self.candidates, found)
        self.profile.left_out += 1
        self._least_us = max(self._min_us, self.candidates[0].length_ns / 1_000 - 1)

    def _count(self, length_us: float) -> None:
        """Count an event that is too short, or shorter than enough others."""
        self.profile.events += 1
        if length_us < self._min_us:
            self.profile.too_short += 1
        else:
            self.profile.left_out += 1

    def _begin(self, index: int, event: TraceEvent) -> None:
        if self.open_events >= _MOST_OPEN:
            self.profile.unreadable += 1
            return
        self.open_events += 1
        event.args = msgspec.Raw(b"")
        self._open[_id(event.pid), _id(event.tid)].append((index, event))

    def _end(self, event: TraceEvent) -> None:
        stack = self._open.get((_id(event.pid), _id(event.tid)))
        if not stack:
            self.profile.unreadable += 1
            return
        self.open_events -= 1
        index, begun = stack.pop()
        start_us, end_us = microseconds(begun.ts), microseconds(event.ts)
        length_us = None if start_us is None or end_us is None else end_us - start_us
        self._add(index, begun, start_us, length_us)

    def _name(self, event: TraceEvent) -> None:
        if event.name not in {"thread_name", "process_name"}:
            return
        try:
            name = _NAME(event.args).name
        except (msgspec.DecodeError, RecursionError, ValueError):
            return
        if event.name == "process_name" and len(self.processes) < _MOST_NAMES:
            self.processes[_id(event.pid)] = clean_name(name)
        elif event.name == "thread_name" and len(self.threads) < _MOST_NAMES:
            self.threads[_id(event.pid), _id(event.tid)] = clean_name(name)


class _Named(msgspec.Struct):
    name: str


_NAME = msgspec.json.Decoder(_Named).decode


def nested(events: list[Event]) -> list[Event]:
    """Return the events by thread and start, each with its parent's index and its depth.

    An event's parent is the shortest that contains it. Since longer ones are kept, those that
    contain a kept event are kept as well.
    """
    ordered = sorted(
        events, key=lambda one: (one.thread, one.start_ns, -one.length_ns, -one.minus_index)
    )
    around: list[int] = []
    thread: Thread | None = None
    for index, event in enumerate(ordered):
        if event.thread != thread:
            thread, around = event.thread, []
        while around and ordered[around[-1]].end_ns + _SLOP_NS < event.end_ns:
            around.pop()
        while around and ordered[around[-1]].end_ns <= event.start_ns:
            around.pop()
        if around:
            parent = ordered[around[-1]]
            event.parent, event.depth = around[-1], parent.depth + 1
            event.length_ns = min(event.end_ns, parent.end_ns) - event.start_ns
        around.append(index)
    return ordered


def chosen(ordered: list[Event], policy: EventPolicy, profile: Profile) -> list[Event]:
    """Return the longest events that are not too deep, with new indexes of their parents."""
    shallow = [index for index, one in enumerate(ordered) if one.depth < policy.max_depth]
    profile.too_deep += len(ordered) - len(shallow)
    longest = set(nlargest(policy.max_events, shallow, key=ordered.__getitem__))
    profile.left_out += len(shallow) - len(longest)
    return without(ordered, longest)


def without(ordered: list[Event], kept: set[int]) -> list[Event]:
    """Return the `kept` ones; the parent of each is the next around it that is kept."""
    places: dict[int, int | None] = {}
    found: list[Event] = []
    for index, event in enumerate(ordered):
        parent = None if event.parent is None else places[event.parent]
        places[index] = parent
        if index in kept:
            places[index] = len(found)
            event.parent = parent
            found.append(event)
    return found


def microseconds(value: Number) -> float | None:
    """Return a usable number, also of text; None if it is none or out of all bounds."""
    try:
        number = float(value or 0) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and -MOST_US < number < MOST_US else None


def nanoseconds(microseconds: float) -> int:
    """Return microseconds as nanoseconds, without losing digits of large ones."""
    whole = int(microseconds)
    return whole * 1_000 + round((microseconds - whole) * 1_000)


def _id(value: Id) -> str:
    """Return the id of a process or thread as text; `1` and `1.0` are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)[:100]
