"""The record of jobs that a replay needs, and what is inferred because nothing records it.

1.  *The part of a wait that no agent could shorten* (latency). A job waited for an agent until the
    one that ran it had ended its job before; from then on it waited for something else: that the
    agent asked for work, and that it started. Each job keeps this latency in the replay. An agent's
    first job has no such end: it keeps the whole wait if that is usual, else the median latency,
    because then the agent had to boot.
2.  *How many agents there were.* An agent is there from its first job to its last, but not while
    it was idle for more than an hour before a job that had to wait. Agents that mostly run one job
    only (`Record.recurring`) tell nothing; there the most jobs that an agent was held for at once on
    a UTC day counts.
3.  *What a job waited for before it was ready*, by the rules of `spans.critical_path`, except that it
    waits for all jobs that had ended, not only for the last of them: with other waits, another one
    may be the last. So a job follows a wait by the recorded gap; one that was uploaded follows the
    start of the job that uploaded it; a retry the end of its attempt.

    A triggered build follows the start of its trigger job, which ends when the build has ended.

Kept as recorded: how long jobs run, and how long people take at block steps and retries. Jobs that
never started leave the queue as long after they became ready, and take no agent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from bk_pipeline.analysis.replay import NONE, Release, Trace
from bk_pipeline.spans.critical_path import CLOCK_TOLERANCE_NS
from bk_pipeline.units import NS_PER_HOUR, NS_PER_S, S_PER_DAY

# A job that becomes ready while a command job of its build runs was uploaded by it, if that job is
# the first of its build, or ends within this time: to upload is usually the last command.
UPLOAD_TAIL_NS = 60 * NS_PER_S
# A latency is usual up to this multiple of the queue's median.
USUAL = 3
AWAY_NS = NS_PER_HOUR
NS_PER_DAY = S_PER_DAY * NS_PER_S
# Agents recur if at least this share of jobs ran on an agent that had run another one before.
RECURRING_SHARE = 0.5


@dataclass(slots=True)
class Queue:
    """What a record says about a queue.

    Attributes:
        cluster_id: The cluster's UUID; empty without a cluster.
        cluster: The cluster's name, if known.
        jobs: The positions of the jobs that an agent ran.
        recurring: Whether its agents run several jobs each, so that their names tell their number.
        agents: The number of agents over time.
    """

    cluster_id: str
    cluster: str | None
    name: str
    jobs: list[int]
    recurring: bool = True
    agents: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """The recorded jobs, by build and then by when they were ready.

    Attributes:
        builds: The builds' UUIDs.
        bounds: Where each build's jobs begin, and the number of jobs.
        queue: The number of the queue whose agent ran the job; `NONE` if none did.
        command: Whether it is a command job.
        attempt: The job that it retries, or `NONE`.
        triggered: The build that it triggered.
        wait_known: Whether it is known how long the job waited for an agent.
    """

    builds: list[str]
    bounds: list[int]
    queues: list[Queue]
    queue: list[int]
    command: list[bool]
    agent: list[str | None]
    attempt: list[int]
    triggered: list[str | None]
    priority: list[int]
    wait_known: list[bool]
    ready: list[int]
    start: list[int]
    end: list[int]
    latency: list[int]

    def __len__(self) -> int:
        return len(self.ready)


def record_of(jobs: pa.Table) -> Record:
    """Return the record of the jobs that the query `queue_jobs` returned."""
    build_column = jobs["build_id"].combine_chunks().dictionary_encode()
    # Of jobs that became ready at the same time, the first to start was the first in the queue.
    times = [_ints(jobs[name]) for name in ("end_ns", "start_ns", "ready_ns")]
    order = np.lexsort((*times, _ints(build_column.indices)))
    jobs = jobs.take(pa.array(order))
    codes = _ints(build_column.indices)[order]
    edges = np.flatnonzero(np.diff(codes, prepend=-1, append=-1)) if len(codes) else [0]
    names = build_column.dictionary.to_pylist()
    columns = {name: jobs[name].to_pylist() for name in jobs.column_names if name != "build_id"}
    queues, numbers = _queues(columns)
    record = Record(
        builds=[names[codes[at]] for at in edges[:-1]],
        bounds=[int(at) for at in edges],
        queues=queues,
        queue=numbers,
        command=[kind == "script" for kind in columns["type"]],
        agent=columns["agent"],
        attempt=_attempts(columns),
        triggered=columns["triggered_build_id"],
        priority=columns["priority"],
        wait_known=columns["wait_known"],
        ready=columns["ready_ns"],
        start=columns["start_ns"],
        end=columns["end_ns"],
        latency=[0] * len(numbers),
    )
    for queue in queues:
        _infer_agents(record, queue)
    return record


def _ints(column: Any) -> Any:
    return (
        column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    )


def _queues(columns: dict[str, list[Any]]) -> tuple[list[Queue], list[int]]:
    """Return the queues, and the number of each job's; jobs without an agent have none."""
    found: dict[tuple[str, str], int] = {}
    queues: list[Queue] = []
    numbers = []
    rows = zip(
        columns["cluster_id"], columns["queue"], columns["cluster"], columns["started"], strict=True
    )
    for job, (cluster_id, name, cluster, started) in enumerate(rows):
        if name is None or not started:
            numbers.append(NONE)
            continue
        number = found.setdefault((cluster_id, name), len(queues))
        if number == len(queues):
            queues.append(Queue(cluster_id, cluster, name, []))
        queues[number].jobs.append(job)
        numbers.append(number)
    return queues, numbers


def _attempts(columns: dict[str, list[Any]]) -> list[int]:
    """Return the position of the job that each job retries, or `NONE`; either may name the other."""
    positions = {job_id: job for job, job_id in enumerate(columns["job_id"]) if job_id}
    attempts = [positions.get(one, NONE) if one else NONE for one in columns["retries_job_id"]]
    for job, successor in enumerate(columns["retried_in_job_id"]):
        retry = positions.get(successor, NONE) if successor else NONE
        if retry != NONE and attempts[retry] == NONE:
            attempts[retry] = job
    return attempts


# How long jobs waited although an agent was free, and how many agents there were.


def _infer_agents(record: Record, queue: Queue) -> None:
    """Set `agents` and `recurring` of a queue, and `latency` of its jobs."""
    queue.jobs.sort(key=lambda job: (record.start[job], record.ready[job], job))
    agents = [record.agent[job] for job in queue.jobs]
    named = len(set(agents) - {None})
    unnamed = sum(agent is None for agent in agents)
    queue.recurring = len(agents) - named - unnamed >= RECURRING_SHARE * len(agents)
    infer = _named_agents if queue.recurring else _counted_agents
    queue.agents = infer(record, queue)


def _named_agents(record: Record, queue: Queue) -> list[tuple[int, int]]:
    ready, start, end, latency = record.ready, record.start, record.end, record.latency
    last_end: dict[str | None, int] = {}
    idle: dict[int, int | None] = {}  # since when the agent of a job had been idle
    known = []
    for job in queue.jobs:
        agent = record.agent[job]
        idle[job] = since = last_end.get(agent) if agent is not None else None
        if since is not None:
            latency[job] = max(start[job] - max(ready[job], since), 0)
            if record.wait_known[job]:
                known.append(latency[job])
        last_end[agent] = max(end[job], since or 0)
    usual = int(median(known)) if known else 0
    changes: list[tuple[int, int]] = []
    for job in queue.jobs:
        since = idle[job]
        long_idle = since is not None and start[job] - since > AWAY_NS
        if since is None or (long_idle and latency[job] > USUAL * usual):
            wait = start[job] - ready[job]
            latency[job] = wait if wait <= USUAL * usual else usual
            changes.append((start[job] - latency[job], 1))
            if since is not None:
                changes.append((since, -1))
    last = max(start[job] - latency[job] for job in queue.jobs)
    changes += [(at, -1) for agent, at in last_end.items() if agent is not None]
    changes += [(end[job], -1) for job in queue.jobs if record.agent[job] is None]
    # After the last assignment nothing tells that an agent left.
    return _levels([change for change in changes if change[1] > 0 or change[0] < last])


def _levels(changes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the sums of changes over time. At one time, agents come before others go."""
    found: list[tuple[int, int]] = []
    level = 0
    for at, change in sorted(changes, key=lambda one: (one[0], -one[1])):
        level += change
        if found and found[-1][0] == at:
            found[-1] = (at, level)
        else:
            found.append((at, level))
    return found


def _counted_agents(record: Record, queue: Queue) -> list[tuple[int, int]]:
    """Take the most jobs at once of each day for its number of agents."""
    jobs = np.array(queue.jobs)
    ready, start, end = (
        np.array(column, dtype=np.int64)[jobs]
        for column in (record.ready, record.start, record.end)
    )
    levels = _daily_peaks(start, end)
    days, peaks = zip(*levels, strict=True)
    in_order = np.argsort(ready, kind="stable")
    ahead = np.empty(len(jobs), dtype=np.int64)
    ahead[in_order] = np.arange(len(jobs)) - np.searchsorted(np.sort(end), ready[in_order], "right")
    level = np.array(peaks)[np.maximum(np.searchsorted(days, ready, "right") - 1, 0)]
    waits, unhindered = start - ready, ahead < level
    usual = int(np.median(waits[unhindered])) if unhindered.any() else 0
    latency = np.where(unhindered, waits, np.minimum(waits, usual))
    for job, value in zip(queue.jobs, latency.tolist(), strict=True):
        record.latency[job] = value
    return _daily_peaks(start - latency, end)


def _daily_peaks(begin: Any, end: Any) -> list[tuple[int, int]]:
    """Return for each UTC day how many of the periods overlapped at most."""
    times = np.concatenate([begin, end])
    changes = np.repeat([1, -1], len(begin))
    order = np.lexsort((changes, times))
    times, running = times[order], np.cumsum(changes[order])
    peaks: dict[int, int] = {}
    before = 0
    for day, level in zip((times // NS_PER_DAY).tolist(), running.tolist(), strict=True):
        peaks[day] = max(peaks.get(day, before), level)
        before = level
    return [(day * NS_PER_DAY, max(peak, 1)) for day, peak in sorted(peaks.items())]


# What jobs waited for before they were ready.


def trace_of(record: Record) -> Trace:
    """Return what to replay."""
    count = len(record)
    release, on = [int(Release.AT)] * count, [NONE] * count
    gap = list(record.ready)
    by_end: list[int] = []
    build_numbers: list[int] = []
    for number, (begin, until) in enumerate(pairwise(record.bounds)):
        for job, how, what, after in _releases(record, begin, until, by_end):
            release[job], on[job], gap[job] = int(how), what, after
        build_numbers += [number] * (until - begin)
    ending = _link_triggered(record, by_end, release, on, gap)
    ran = [number != NONE for number in record.queue]
    return Trace(
        queue=record.queue,
        priority=record.priority,
        latency=record.latency,
        run=[
            end - (start if runs else ready)
            for end, start, ready, runs in zip(
                record.end, record.start, record.ready, ran, strict=True
            )
        ],
        build=build_numbers,
        release=release,
        on=on,
        gap=gap,
        by_end=by_end,
        first=record.bounds,
        until=ending,
    )


def _link_triggered(
    record: Record, by_end: Sequence[int], release: list[int], on: list[int], gap: list[int]
) -> dict[int, tuple[int, int]]:
    """Let triggered builds follow their trigger jobs, and return what these wait for in turn.

    Asynchronous trigger jobs end before any job of the build, and so wait for none.
    """
    numbers = {build: number for number, build in enumerate(record.builds)}
    until = {}
    for job, build in enumerate(record.triggered):
        number = numbers.get(build, NONE) if build else NONE
        if number == NONE or record.command[job]:
            continue
        begin, end = record.bounds[number], record.bounds[number + 1]
        # Else it triggered something else, or the times are wrong.
        if not record.ready[job] <= record.start[job] < record.ready[begin]:
            continue
        for other in range(begin, end):
            if release[other] == Release.AT:
                # A trigger job needs no agent: the replay starts it when it is ready.
                since = record.ready[other] - record.ready[job]
                release[other], on[other], gap[other] = int(Release.AFTER_START), job, since
        ends = [record.end[other] for other in by_end[begin:end]]
        ended = bisect_right(ends, record.end[job])
        if ended:
            until[job] = (begin + ended, record.end[job] - ends[ended - 1])
    return until


def _releases(
    record: Record, begin: int, until: int, by_end: list[int]
) -> Iterator[tuple[int, Release, int, int]]:
    """Yield for each job of a build that waited for others: job, release, on what, and the gap.

    Extends `by_end` by the build's jobs. A job waits only for jobs that were ready before it.
    """
    ready, end = record.ready, record.end
    # Jobs without length come last among those that end at the same time, as in `critical_path`.
    order = sorted(range(begin, until), key=lambda job: (end[job], end[job] == ready[job], job))
    by_end += order
    ended = 0
    for job in range(begin, until):
        now = ready[job]
        while ended < len(order) and _ended(record, order[ended], now):
            ended += 1
        attempt = record.attempt[job]
        if attempt != NONE and begin <= attempt < until and ready[attempt] < now >= end[attempt]:
            yield job, Release.AFTER_END, attempt, now - end[attempt]
            continue
        gap = now - end[order[ended - 1]] if ended else None
        if gap is None or gap > CLOCK_TOLERANCE_NS:
            uploading = _uploading(record, order[ended:], now, first=gap is None)
            if uploading != NONE:
                yield job, Release.AFTER_START, uploading, now - record.start[uploading]
                continue
        if gap is not None:
            yield job, Release.AFTER_ALL, begin + ended, gap


def _ended(record: Record, job: int, now: int) -> bool:
    end = record.end[job]
    return end < now or (end == now and end != record.ready[job])


def _uploading(record: Record, running: Sequence[int], now: int, *, first: bool) -> int:
    """Return the command job that ran at `now` and ended first, or `NONE` if it did not upload."""
    for job in running:
        if not first and record.end[job] - now > UPLOAD_TAIL_NS:
            break
        runs = record.command[job] and record.queue[job] != NONE
        if runs and record.start[job] <= now and record.ready[job] < now:
            return job
    return NONE
