"""A build's jobs with their times as numbers: what all kinds of spans are built on.

A job is *active* from when it became runnable (waiting for an agent is activity) until it
ended. Waiter, broken and skipped jobs never ran and give no span; neither does what has
not ended, nor a block step that nobody has unblocked.
"""

from __future__ import annotations

import msgspec

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.records import Build, Job
from bk_pipeline.spans.retries import Retries, Retry
from bk_pipeline.spans.status import NEITHER, Outcome, status
from bk_pipeline.spans.timing import Times
from bk_pipeline.units import NS_PER_MS, NS_PER_S

NO_SPAN_STATES = frozenset({"broken", "skipped"})
ENDED_STATES = frozenset({"passed", "failed", "canceled", "timed_out", "expired", "finished"})
TIMES = ("created_at", "runnable_at", "started_at", "finished_at", "expired_at", "unblocked_at")


class TimedJob(msgspec.Struct, eq=False, gc=False):
    """A job and its times in nanoseconds, `start_ns` never after `end_ns`.

    Attributes:
        gives_span: It has ended (or was unblocked). What follows is of no use otherwise.
        start_ns: Of a block step, as long as its stage is not known, the same as `end_ns`.
        runnable_ns: From when it waited for an agent; None if the payload does not say.
        active_ns: From when on it was active for certain; None if it never was.
        outcome: Its status, and its `error.type`.
        resumed_ns: When it set a paused build going again, if it did: a block step by being
            unblocked, a manual retry by being made.
        started: False if it ended without having started.
    """

    job: Job
    created_ns: int | None
    gives_span: bool = False
    start_ns: int = 0
    end_ns: int = 0
    runnable_ns: int | None = None
    active_ns: int | None = None
    resumed_ns: int | None = None
    outcome: Outcome = NEITHER
    retry: Retry | None = None
    manual: bool = False
    started: bool = True
    adjusted: bool = False

    @property
    def wait_ms(self) -> int | None:
        """How long it waited for an agent; None if it never got one or nobody knows."""
        if self.runnable_ns is None or self.job.started_at is None:
            return None
        return max(self.start_ns - self.runnable_ns, 0) // NS_PER_MS

    def confine(self, earliest_ns: int, latest_ns: int) -> None:
        """Bring what lies outside its build into it, and mark it if that moved the span."""
        if self.start_ns < earliest_ns or self.end_ns > latest_ns:
            self.start_ns = min(max(self.start_ns, earliest_ns), latest_ns)
            self.end_ns = min(max(self.end_ns, self.start_ns), latest_ns)
            self.adjusted = True
        if self.runnable_ns is not None and self.runnable_ns < earliest_ns:
            self.runnable_ns = earliest_ns
        if self.active_ns is not None and self.active_ns < earliest_ns:
            self.active_ns = earliest_ns
        if self.resumed_ns is not None:
            self.resumed_ns = min(max(self.resumed_ns, earliest_ns), self.end_ns)


def timed_jobs(build: Build, retries: Retries, times: Times) -> list[TimedJob]:
    """The build's jobs in payload order, without waiters; of equal ids the last one counts.

    Raises:
        RecordError: A time cannot be read; names its path.
    """
    jobs = build.jobs or []
    found = []
    for job in {job.id: job for job in jobs}.values():
        if job.type == "waiter":
            continue
        try:
            found.append(_timed(job, retries.of(job.id), times))
        except (ValueError, OverflowError) as exc:
            where = f"$.jobs[{jobs.index(job)}].{_unreadable_time(job)}"
            raise RecordError(f"Expected a time - at `{where}`", record_id=build.id) from exc
    return found


def _unreadable_time(job: Job) -> str:
    """The name of the first field of `job` that should be a time and is not."""
    times = Times()
    for name in TIMES:
        try:
            times[getattr(job, name)]
        except (ValueError, OverflowError):
            return name
    return "?"


def _timed(job: Job, retry: Retry | None, times: Times) -> TimedJob:
    created = times[job.created_at]
    if job.state in NO_SPAN_STATES:
        return TimedJob(job, created)
    if job.type == "manual":
        return _timed_manual(job, created, times)
    end = times[job.finished_at or job.expired_at]
    if end is None and job.state not in ENDED_STATES:
        return TimedJob(job, created)
    runnable = times[job.runnable_at]
    started = times[job.started_at]
    start = started if started is not None else _first(runnable, created, end)
    if start is None:
        return TimedJob(job, created)
    # A trigger job has a build to show for it, with or without a start.
    ran = started is not None or job.state == "passed" or bool(_triggered(job))
    unknown = (runnable is None and created is None) or (ran and job.type == "script")
    adjusted = (started is None and unknown) or end is None or end < start
    end = start if end is None or end < start else end
    resumed = _first(created, runnable, start) if retry is not None and retry.manual else None
    return TimedJob(
        job,
        created,
        gives_span=True,
        start_ns=start,
        end_ns=end,
        runnable_ns=runnable,
        active_ns=resumed if resumed is not None else _active(runnable, started, end, ran=ran),
        resumed_ns=resumed,
        outcome=status(job),
        retry=retry,
        started=ran,
        adjusted=adjusted,
    )


def _timed_manual(job: Job, created: int | None, times: Times) -> TimedJob:
    unblocked = times[job.unblocked_at]
    if unblocked is None:
        return TimedJob(job, created)
    return TimedJob(
        job,
        created,
        gives_span=True,
        start_ns=unblocked,
        end_ns=unblocked,
        resumed_ns=unblocked,
        outcome=status(job),
        manual=True,
    )


def _active(runnable: int | None, started: int | None, end: int, *, ran: bool) -> int | None:
    """From when on the job was active for certain, None if it never was.

    Until about 2020 these times are whole seconds, rounded down: then it may have been as
    late as the end of that second.
    """
    active = runnable if started is None else started
    if active is None:
        return end if ran else None
    if runnable is not None and runnable < active:
        active = runnable
    return active + NS_PER_S - 1 if active % NS_PER_S == 0 else active


def _first(*times: int | None) -> int | None:
    return next((time for time in times if time is not None), None)


def _triggered(job: Job) -> str | None:
    return job.triggered_build.id if job.triggered_build else None
