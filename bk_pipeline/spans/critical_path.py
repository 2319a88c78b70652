"""The critical path: the chain of jobs and waits that made a build as long as it was.

It is found in each stage by itself, from the jobs that had ended when the stage ended, so a build
that resumes does not change what was sent before:

1.  Each job has at most one *predecessor*, the job that its `runnable_at` waited for:
    for a retry the attempt that it replaces; for a job created while the build ran, and after
    the last earlier end, the script job that was running then (it uploaded the job); else the job
    that ended last, at or before `runnable_at`.
2.  The path leads from the last job that ended in the stage back to one without a predecessor.
3.  A job's *share* of the path is the time from the release by its predecessor (its end or the
    upload; the stage's start, if there is none) to its own release of the next job on the path. It
    includes the wait. So shares do not overlap, and add up to the length of the stage.
4.  A job's *slack* is how much later it could have ended without the stage ending later. The API
    does not have the dependencies of steps, so every job that became runnable after another's end
    counts as dependent on it (except a retry, which depends on its attempt). Slack is therefore a
    lower bound. It is zero on the path. A delay is assumed to be passed on in full.

In a pause between stages the path leads through the block steps that were waiting.
"""

# ruff: noqa: FURB136, PLR1730  # calls of min and max take longer, and this runs for every job
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from operator import attrgetter

import msgspec

from bk_pipeline.spans.jobs import TimedJob
from bk_pipeline.spans.model import PathShare, Stage
from bk_pipeline.units import NS_PER_MS, NS_PER_S

# An agent reports when its job ended, Buildkite decides when the next one is runnable: an end
# may seem to be later than what it released. Whole seconds, as before 2020, blur as much.
CLOCK_TOLERANCE_NS = NS_PER_S
NONE = -1


class PathTimes(msgspec.Struct, gc=False):
    """How long the jobs on a path ran, and how long it waited for people, in nanoseconds."""

    run_ns: int = 0
    blocked_ns: int = 0


def set_path_shares(stage: Stage, jobs: Sequence[TimedJob], *, origin_ns: int) -> PathTimes:
    """Set `path` of all jobs of a stage, and return the times of its path.

    Args:
        stage: The stage; its times are set.
        jobs: All of its jobs, in payload order. The block steps that end after the stage are in the
            pause that follows; their times are not returned.
        origin_ns: The start of the build, from which whole milliseconds are counted, so that the
            shares in milliseconds add up too.
    """
    end_ns = stage.end_ns
    active = [
        job for job in jobs if job.active_ns is not None or (job.manual and job.end_ns <= end_ns)
    ]
    if len(active) < len(jobs):
        _set_idle_shares(stage, jobs, origin_ns)
    return _Schedule(active, stage, origin_ns).set_shares() if active else PathTimes()


def _set_idle_shares(stage: Stage, jobs: Iterable[TimedJob], origin_ns: int) -> None:
    """Set `path` of jobs that were canceled before they could run, and of the pause's block steps.

    The block steps share the pause one after another, in the order in which they were unblocked.
    """
    blocks = []
    for job in jobs:
        if job.manual and job.end_ns > stage.end_ns:
            blocks.append(job)
        elif not job.manual and job.active_ns is None:
            job.path = PathShare(None)
    begin_ms = (stage.end_ns - origin_ns) // NS_PER_MS
    for job in sorted(blocks, key=attrgetter("end_ns")):
        end_ms = (job.end_ns - origin_ns) // NS_PER_MS
        job.path = PathShare(0, critical=True, ms=end_ms - begin_ms)
        begin_ms = end_ms


def combined(shares: Iterable[PathShare | None]) -> PathShare | None:
    """Return the share of a step or group from those of its jobs or steps; None if they have none.

    It is on the path if one of them is, has the sum of their shares, and the least slack.
    """
    known = [share for share in shares if share is not None]
    if len(known) <= 1:
        return known[0] if known else None
    slacks = [share.slack_ms for share in known if share.slack_ms is not None]
    return PathShare(
        min(slacks, default=None),
        critical=any(share.critical for share in known),
        ms=sum(share.ms for share in known),
    )


class _Schedule:
    """The jobs that were active in a stage (at least one), by position in order of `ready`.

    A job is ready when it begins to wait for an agent, or at its start if that is unknown or
    earlier.
    """

    def __init__(self, jobs: Sequence[TimedJob], stage: Stage, origin_ns: int) -> None:
        self._start_ns = stage.start_ns
        self._origin_ns = origin_ns
        # Runs for every build: plain loops over integers, no calls and no tuples for each job.
        moments = [
            job.start_ns if (at := job.runnable_ns) is None or at > job.start_ns else at
            for job in jobs
        ]
        order = sorted(range(len(jobs)), key=moments.__getitem__)
        self._jobs = [jobs[n] for n in order]
        self._ready = ready = [moments[n] for n in order]
        self._ends = ends = [job.end_ns for job in self._jobs]
        # Jobs without length come last among those that end at the same time: one that is ready
        # then can be a successor of the others, but not of them. Twice the end leaves room for it.
        self._end_ranks = ranks = [ends[n] * 2 + (ends[n] == at) for n, at in enumerate(ready)]
        self._by_end = sorted(range(len(ends)), key=ranks.__getitem__)
        self._end_ns = ends[self._by_end[-1]]
        self._predecessors = [NONE] * len(ends)
        self._released = [stage.start_ns] * len(ends)  # when the predecessor released each job

    def set_shares(self) -> PathTimes:
        """Set `path` of all jobs, and return the times of the path."""
        self._find_predecessors()
        self._set_slacks()
        return self._walk_back()

    def _find_predecessors(self) -> None:
        """Set the predecessor of each job, and when it released the job."""
        ready, ends, by_end, ranks = self._ready, self._ends, self._by_end, self._end_ranks
        earliest_start = min([job.start_ns for job in self._jobs])
        uploaded, retries = [], []
        count, ended = len(ready), 0  # how many jobs had ended when the job became ready
        for n, job in enumerate(self._jobs):
            now = ready[n]
            while ended < count and ranks[by_end[ended]] <= now * 2:
                ended += 1
            last = by_end[ended - 1] if ended else NONE
            end = ends[last] if ended else self._start_ns
            created = job.created_ns
            if job.retry is not None:
                retries.append(n)
            elif created is not None and end < created <= now and created >= earliest_start:
                uploaded.append((created, n))
            if now - end > CLOCK_TOLERANCE_NS and ended < count:
                other = by_end[ended]
                if ends[other] <= now + CLOCK_TOLERANCE_NS and ready[other] < now:
                    end, last = ends[other], other
            if last != NONE:
                self._predecessors[n] = last
                # By its agent's clock it may have ended after the job that waited for it started.
                self._released[n] = end if end < job.start_ns else job.start_ns
        for n, created, uploading in self._uploads(uploaded):
            self._predecessors[n], self._released[n] = uploading, created
        self._set_attempts(retries)

    def _uploads(self, created: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Yield position, creation, and uploading job of the jobs created while a script job ran.

        If several were running, the one that ended first: uploading is often the last command.
        """
        if not created:
            return
        starts = [
            (job.start_ns, job.end_ns, n)
            for n, job in enumerate(self._jobs)
            if job.started and job.job.type == "script"
        ]
        starts.sort(reverse=True)
        running: list[tuple[int, int]] = []  # a heap, by end
        for moment, n in sorted(created):
            while starts and starts[-1][0] <= moment:
                _, end, starting = starts.pop()
                heappush(running, (end, starting))
            while running and running[0][0] < moment:
                heappop(running)
            if running and self._ready[running[0][1]] < self._ready[n]:
                yield n, moment, running[0][1]

    def _set_attempts(self, retries: Sequence[int]) -> None:
        """Set the predecessors of retries: their attempts; none if that was in an earlier stage."""
        if not retries:
            return
        positions = {job.job.id: n for n, job in enumerate(self._jobs)}
        for n in retries:
            job = self._jobs[n]
            assert job.retry is not None
            attempt = positions.get(job.retry.of, NONE)
            if attempt != NONE and self._ready[attempt] < self._ready[n]:
                self._predecessors[n] = attempt
                self._released[n] = min(self._jobs[attempt].end_ns, job.start_ns)
            elif job.retry.manual:
                self._predecessors[n], self._released[n] = NONE, self._start_ns

    def _set_slacks(self) -> None:
        """Set `path` of all jobs to their slack: how much later each could have ended."""
        ready, ends = self._ready, self._ends
        count = len(ready)
        slacks = [self._end_ns] * count
        # The latest time at which a job may end, if those from each position on depend on it.
        latest = [self._end_ns] * (count + 1)
        for n in range(count - 1, -1, -1):
            job, end = self._jobs[n], ends[n]
            dependents = bisect_left(ready, end if end > ready[n] else end + 1, n + 1)
            slack = latest[dependents] - end
            if slacks[n] < slack:
                slack = slacks[n]
            job.path = PathShare(slack // NS_PER_MS)
            allowed = latest[n + 1]
            predecessor = self._predecessors[n]
            if predecessor != NONE:
                if slack < slacks[predecessor]:
                    slacks[predecessor] = slack
                if job.retry is None and self._released[n] + slack < allowed:
                    allowed = self._released[n] + slack
            latest[n] = allowed

    def _walk_back(self) -> PathTimes:
        """Set the shares of the jobs on the path, from the last one that ended."""
        times = PathTimes()
        until, n = self._end_ns, self._by_end[-1]
        until_ms = (until - self._origin_ns) // NS_PER_MS
        while n != NONE:
            job, path = self._jobs[n], self._jobs[n].path
            assert path is not None
            begin = _within(self._released[n], self._start_ns, until)
            if job.manual:
                times.blocked_ns += until - begin
            else:
                start = _within(job.start_ns, begin, until) if job.started else until
                times.run_ns += until - start
                path.wait_ms = (start - _within(self._ready[n], begin, start)) // NS_PER_MS
                if job.retry and job.retry.manual and job.resumed_ns is not None:
                    times.blocked_ns += _within(job.resumed_ns, begin, start) - begin
            begin_ms = (begin - self._origin_ns) // NS_PER_MS
            path.critical, path.ms = True, until_ms - begin_ms
            until, until_ms, n = begin, begin_ms, self._predecessors[n]
        return times


def _within(moment: int, earliest: int, latest: int) -> int:
    """Return `moment`, moved to between `earliest` and `latest`; the latter wins."""
    if moment < earliest:
        moment = earliest
    return moment if moment < latest else latest
