"""A build's jobs with their times as numbers: what all kinds of spans are built on.

A job is *active* from when it became runnable (waiting for an agent is activity) until it
ended. Waiter, broken and skipped jobs never ran and give no span; neither does what has
not ended, nor a block step that nobody has unblocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.model import SpanStatus
from bk_pipeline.spans.records import Build, Job
from bk_pipeline.spans.timing import Times
from bk_pipeline.units import NS_PER_MS, NS_PER_S


class Retry(msgspec.Struct, frozen=True, gc=False):
    """That a job replaces the job `of`. By a person unless the payload says `automatic`:
    there were manual retries before there was a word for it.
    """

    of: str
    manual: bool


class Retries:
    """The retries among a build's jobs."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._of: dict[str, Retry] = {}
        named_by_the_old: list[tuple[str, Retry]] = []
        for job in jobs:
            source = job.retry_source
            if source and source.job_id and source.job_id != job.id:
                self._of[job.id] = Retry(source.job_id, source.retry_type != "automatic")
            successor = job.retried_in_job_id
            if successor and successor != job.id:
                named_by_the_old.append((successor, Retry(job.id, job.retry_type != "automatic")))
        for successor, retry in named_by_the_old:
            self._of.setdefault(successor, retry)
        self._origins: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._of)

    def of(self, job_id: str) -> Retry | None:
        """What the job replaces; None if it is a first attempt."""
        return self._of.get(job_id)

    def origin(self, job_id: str) -> str:
        """The id of the first attempt, which all retries go back to.

        If they go round in a circle, the least id in it.
        """
        origins, replaced = self._origins, self._of
        path: dict[str, None] = {}  # in order
        current = job_id
        while current not in origins:
            if current in path:
                circle = list(path)[list(path).index(current) :]
                origins[current] = min(circle)
                break
            path[current] = None
            if current not in replaced:
                origins[current] = current
                break
            current = replaced[current].of
        origins.update(dict.fromkeys(path, origins[current]))
        return origins[job_id]


def unreplaced(job_ids: Iterable[str], retries: Retries) -> Mapping[str, None]:
    """Those of the jobs that no other of them replaces, in their order; all if none is left."""
    ids = dict.fromkeys(job_ids)
    if not retries:
        return ids
    gone = {retry.of for retry in map(retries.of, ids) if retry}
    return {job_id: None for job_id in ids if job_id not in gone} or ids


UNSET, OK, ERROR = SpanStatus
Outcome = tuple[SpanStatus, str | None]  # and what the error was
PASSED: Outcome = (OK, None)
NEITHER: Outcome = (UNSET, None)

PASSED_STATES = frozenset({"passed", "unblocked"})
HARD_FAILURES = frozenset({"failed", "timed_out", "expired"})
AGENT_LOST = "agent_lost"
LOST_EXIT_STATUS = -1
AGENT_STOPPED = "agent_stop"


def failed_hard(job: Job) -> bool:
    """It failed, timed out, expired or lost its agent, and the pipeline does not forgive it."""
    if job.soft_failed:
        return False
    if job.state == "finished":
        return bool(job.exit_status)
    return job.state in HARD_FAILURES


def agent_was_lost(job: Job) -> bool:
    """It failed because its agent vanished or was stopped, not by its command's doing.

    -1 is also the exit status of what was canceled or timed out, and of what an agent
    refused; the last is known by its `signal_reason`.
    """
    if job.state not in {"failed", "finished"}:
        return False
    unexplained = job.exit_status == LOST_EXIT_STATUS and not job.signal_reason
    return unexplained or job.signal_reason == AGENT_STOPPED


def status(job: Job) -> Outcome:
    """The span status, and `error.type` where it is ERROR."""
    if job.state in PASSED_STATES:
        return PASSED
    if failed_hard(job):
        if agent_was_lost(job):
            return ERROR, AGENT_LOST
        return ERROR, "failed" if job.state == "finished" else job.state
    return PASSED if job.state == "finished" and job.exit_status == 0 else NEITHER


def status_of_all(outcomes: Iterable[Outcome]) -> Outcome:
    """The first error there is, else OK if all are, else UNSET."""
    found = PASSED
    for one in outcomes:
        if one[0] is ERROR:
            return one
        if one[0] is not OK:
            found = NEITHER
    return found


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
