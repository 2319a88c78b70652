"""Replays jobs through queues of agents: a simulation of discrete events, driven by a record.

Each queue gives its longest waiting job of the highest priority to an agent as soon as one is free.
A job holds its agent for its latency (the time between the assignment and its start) and for as
long as it ran in the record. When a job becomes ready follows from the record or from other jobs of
its build (`Release`).

The events are in a heap. A framework such as simpy resumes a generator per event, which takes more
than ten times as long; with a million jobs that is minutes instead of seconds. Times are integers
of any unit, so that a replay repeats a record exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from heapq import heapify, heappop, heappush

NONE = -1
# Events at the same time: agents become free, come and go before jobs become ready.
_END, _AGENTS, _READY = range(3)

# The number of agents of a queue over time: moments, and the number from each of them on.
Agents = Sequence[tuple[int, int]]


class Release(IntEnum):
    """What decides when a job becomes ready; `Trace.on` and `Trace.gap` say which and how."""

    AT = 0  # the time `gap`
    AFTER_START = 1  # `gap` after the job `on` started: `on` uploaded it
    AFTER_END = 2  # `gap` after the job `on` ended: it retries `on`
    AFTER_ALL = 3  # `gap` after the last of its build's first jobs up to position `on` of `by_end`


@dataclass(frozen=True, slots=True)
class Trace:
    """What to replay: a column per attribute, a row per job. Jobs refer to others by position.

    Args:
        queue: The number of the queue whose agents run the job; `NONE` if it needs no agent.
        priority: Jobs of a higher priority start first.
        latency: The time from the assignment to the start, during which the agent is held.
        run: How long the job runs.
        build: The number of the build, from 0 on.
        release: What decides when the job becomes ready. A job must not depend on itself, in a
            circle either.
        on: See `Release`.
        gap: See `Release`; at least 0 unless it is a time.
        by_end: The positions of all jobs: those of a build are adjacent, in the order of their
            recorded ends.
        first: Where each build's jobs begin in `by_end`, and the length of `by_end`.
        until: For jobs that wait for another build, a position and a gap: they run until the gap
            after the last of that build's first jobs up to the position of `by_end`.
    """

    queue: Sequence[int]
    priority: Sequence[int]
    latency: Sequence[int]
    run: Sequence[int]
    build: Sequence[int]
    release: Sequence[int]
    on: Sequence[int]
    gap: Sequence[int]
    by_end: Sequence[int]
    first: Sequence[int]
    until: Mapping[int, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.queue)


@dataclass(frozen=True, slots=True)
class Replayed:
    """When each job became ready, started and ended, and the job that released it or `NONE`."""

    ready: list[int]
    start: list[int]
    end: list[int]
    cause: list[int]


def replay(trace: Trace, agents: Sequence[Agents]) -> Replayed:
    """Replay a trace.

    Args:
        trace: The jobs.
        agents: The number of agents of each queue over time, in order of time. Before the first
            moment there are none. Jobs that run when it falls run to their end.

    Raises:
        ValueError: The last number of a queue's agents is not positive, so jobs could wait forever,
            or jobs wait for each other.
    """
    if any(levels[-1][1] <= 0 for levels in agents if levels):
        raise ValueError("the last number of agents must be positive")
    return _Run(trace, agents).run()


class _Run:
    def __init__(self, trace: Trace, agents: Sequence[Agents]) -> None:
        count = len(trace)
        self._trace = trace
        self._ready, self._start = [NONE] * count, [NONE] * count
        self._end, self._cause = [NONE] * count, [NONE] * count
        self._free = [0] * len(agents)  # negative while more run than there are agents
        self._level = [0] * len(agents)
        self._waiting: list[list[tuple[int, int, int]]] = [[] for _ in agents]
        self._pointer = list(trace.first[:-1])
        self._after_start: dict[int, list[int]] = {}
        self._after_end: dict[int, list[int]] = {}
        self._after_all: dict[int, list[int]] = {}
        self._ending_after: dict[int, list[int]] = {}
        self._events: list[tuple[int, int, int, int]] = [
            (at, _AGENTS, queue, level)
            for queue, levels in enumerate(agents)
            for at, level in levels
        ]
        self._register()
        heapify(self._events)

    def _register(self) -> None:
        trace = self._trace
        waiting = {
            Release.AFTER_START: self._after_start,
            Release.AFTER_END: self._after_end,
            Release.AFTER_ALL: self._after_all,
        }
        for job, (release, on, gap) in enumerate(
            zip(trace.release, trace.on, trace.gap, strict=True)
        ):
            if release == Release.AT:
                self._events.append((gap, _READY, job, NONE))
            else:
                waiting[Release(release)].setdefault(on, []).append(job)

    def run(self) -> Replayed:
        """Process the events in order of time, and assign jobs after all those of a moment."""
        events, queues = self._events, self._trace.queue
        while events:
            now = events[0][0]
            touched = set()
            while events and events[0][0] == now:
                _, kind, subject, value = heappop(events)
                if kind == _AGENTS:
                    self._free[subject] += value - self._level[subject]
                    self._level[subject] = value
                    touched.add(subject)
                    continue
                queue = queues[subject]
                if kind == _END:
                    self._finish(subject, now)
                    if queue != NONE:
                        self._free[queue] += 1
                else:
                    self._arrive(subject, now, value)
                touched.add(queue)
            for queue in touched:
                if queue != NONE and self._waiting[queue]:
                    self._assign(queue, now)
        if NONE in self._end:
            raise ValueError(f"job {self._end.index(NONE)} never ends: it waits for itself")
        return Replayed(self._ready, self._start, self._end, self._cause)

    def _arrive(self, job: int, now: int, cause: int) -> None:
        self._ready[job], self._cause[job] = now, cause
        queue = self._trace.queue[job]
        if queue == NONE:
            self._begin(job, now)
        else:
            heappush(self._waiting[queue], (-self._trace.priority[job], now, job))

    def _assign(self, queue: int, now: int) -> None:
        waiting, free = self._waiting[queue], self._free[queue]
        while waiting and free > 0:
            free -= 1
            self._begin(heappop(waiting)[2], now)
        self._free[queue] = free

    def _begin(self, job: int, now: int) -> None:
        trace = self._trace
        start = now + trace.latency[job]
        self._start[job] = start
        position, gap = trace.until.get(job, (NONE, 0))
        if position == NONE:
            heappush(self._events, (start + trace.run[job], _END, job, NONE))
        elif self._pointer[trace.build[trace.by_end[position - 1]]] >= position:
            heappush(self._events, (start + gap, _END, job, NONE))
        else:
            self._ending_after.setdefault(position, []).append(job)
        for waiting in self._after_start.pop(job, ()):
            heappush(self._events, (start + trace.gap[waiting], _READY, waiting, job))

    def _finish(self, job: int, now: int) -> None:
        trace, ends = self._trace, self._end
        ends[job] = now
        gaps, events = trace.gap, self._events
        for waiting in self._after_end.pop(job, ()):
            heappush(events, (now + gaps[waiting], _READY, waiting, job))
        build = trace.build[job]
        at, until = self._pointer[build], trace.first[build + 1]
        while at < until and ends[trace.by_end[at]] != NONE:
            at += 1
            for waiting in self._after_all.pop(at, ()):
                heappush(events, (now + gaps[waiting], _READY, waiting, job))
            for waiting in self._ending_after.pop(at, ()):
                heappush(events, (now + trace.until[waiting][1], _END, waiting, NONE))
        self._pointer[build] = at
