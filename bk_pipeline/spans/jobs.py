"""The jobs of a build with their retries, outcomes and times: the input of all span builders.

A job is *active* from when it became runnable (waiting for an agent is activity) until it
ended. Waiter, broken and skipped jobs never ran and have no span. Nor have jobs that still wait or
have not ended, and block steps that have not been unblocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.model import PathShare, SpanStatus
from bk_pipeline.spans.records import Build, Job
from bk_pipeline.spans.timing import Times
from bk_pipeline.units import NS_PER_MS, NS_PER_S


class Retry(msgspec.Struct, frozen=True, gc=False):
    """A retry of the job `of`.

    It is manual unless the payload says `automatic`: manual retries are older than the field.
    """

    of: str
    manual: bool


class Retries:
    """The retries among a build's jobs, from either end of the reference."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._of: dict[str, Retry] = {}
        from_predecessors: list[tuple[str, Retry]] = []
        for job in jobs:
            source = job.retry_source
            if source and source.job_id and source.job_id != job.id:
                self._of[job.id] = Retry(source.job_id, source.retry_type != "automatic")
            successor = job.retried_in_job_id
            if successor and successor != job.id:
                from_predecessors.append((successor, Retry(job.id, job.retry_type != "automatic")))
        for successor, retry in from_predecessors:
            self._of.setdefault(successor, retry)
        self._origins: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._of)

    def of(self, job_id: str) -> Retry | None:
        """Return the retry that created the job; None for a first attempt."""
        return self._of.get(job_id)

    def origin(self, job_id: str) -> str:
        """Return the job id of the first attempt in the job's chain of retries.

        If the references form a cycle, the smallest id in the cycle.
        """
        origins, replaced = self._origins, self._of
        path: dict[str, None] = {}  # an ordered set
        current = job_id
        while current not in origins:
            if current in path:
                cycle = list(path)[list(path).index(current) :]
                origins[current] = min(cycle)
                break
            path[current] = None
            if current not in replaced:
                origins[current] = current
                break
            current = replaced[current].of
        origins.update(dict.fromkeys(path, origins[current]))
        return origins[job_id]


def last_attempts(job_ids: Iterable[str], retries: Retries) -> Mapping[str, None]:
    """Return the jobs that no other of them retries, in their order; all jobs if none is left."""
    ids = dict.fromkeys(job_ids)
    if not retries:
        return ids
    retried = {retry.of for retry in map(retries.of, ids) if retry}
    return {job_id: None for job_id in ids if job_id not in retried} or ids


UNSET, OK, ERROR = SpanStatus
Outcome = tuple[SpanStatus, str | None]  # the span's status and `error.type`
PASSED: Outcome = (OK, None)
UNSET_OUTCOME: Outcome = (UNSET, None)

PASSED_STATES = frozenset({"passed", "unblocked"})
HARD_FAILURES = frozenset({"failed", "timed_out", "expired"})
AGENT_LOST = "agent_lost"
LOST_EXIT_STATUS = -1
AGENT_STOPPED = "agent_stop"
STACK_ERROR = "stack_error"
# Reasons for which the CI system, not the job's command, made a job fail.
SYSTEM_FAILURES = frozenset({
    AGENT_STOPPED,
    "agent_incompatible",
    "agent_refused",
    "process_run_error",
    "signature_rejected",
    STACK_ERROR,
})  # fmt: skip


def failed_hard(job: Job) -> bool:
    """Return whether the job failed, timed out, expired or lost its agent, without soft fail."""
    if job.soft_failed:
        return False
    if job.state == "finished":
        return bool(job.exit_status)
    return job.state in HARD_FAILURES


def agent_was_lost(job: Job) -> bool:
    """Return whether the job failed because its agent was lost or stopped, not by its command.

    Canceled and timed-out jobs, and jobs that an agent refused, have the exit status -1 too.
    The last are told apart by their `signal_reason`.
    """
    if job.state not in {"failed", "finished"}:
        return False
    unexplained = job.exit_status == LOST_EXIT_STATUS and not job.signal_reason
    return unexplained or job.signal_reason == AGENT_STOPPED


def system_failed(job: Job) -> bool:
    """Return whether the job failed because of the CI system: it lost or never got an agent,
    or the agent could not or would not run its command.
    """
    if job.state == "expired" or agent_was_lost(job):
        return True
    return job.state in {"failed", "finished"} and job.signal_reason in SYSTEM_FAILURES


def job_outcome(job: Job) -> Outcome:
    """Return the span status of a job, and its `error.type` if the status is ERROR."""
    if job.state in PASSED_STATES:
        return PASSED
    if failed_hard(job):
        if agent_was_lost(job):
            return ERROR, AGENT_LOST
        return ERROR, "failed" if job.state == "finished" else job.state
    return PASSED if job.state == "finished" and job.exit_status == 0 else UNSET_OUTCOME


def combined_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the first error, else OK if all are OK, else UNSET."""
    combined = PASSED
    for outcome in outcomes:
        if outcome[0] is ERROR:
            return outcome
        if outcome[0] is not OK:
            combined = UNSET_OUTCOME
    return combined


# A job that waits (for a wait or block step, or for another step) has not run, and a job in
# `waiting_failed` will not, unless one that it waits for is retried.
NO_SPAN_STATES = frozenset({"broken", "skipped", "waiting", "waiting_failed"})
ENDED_STATES = frozenset({"passed", "failed", "canceled", "timed_out", "expired", "finished"})
TIME_FIELDS = (
    "created_at",
    "runnable_at",
    "started_at",
    "finished_at",
    "expired_at",
    "unblocked_at",
)


class TimedJob(msgspec.Struct, eq=False, gc=False):
    """A job and its times in nanoseconds. `start_ns` is never after `end_ns`.

    Attributes:
        has_span: Whether it has ended (or was unblocked). If not, only `job` and `created_ns`
            are set.
        start_ns: For a block step the same as `end_ns`, until its stage is known.
        runnable_ns: When it began to wait for an agent; None if unknown.
        active_ns: The earliest time at which it was certainly active; None if it never was.
        outcome: Its span status and `error.type`.
        resumed_ns: When it could have resumed a paused build: a block step when it was
            unblocked, a manual retry when it was created.
        manual: Whether it is a block or input step.
        started: False if it ended without having started.
        adjusted: Whether its times were missing or impossible and were changed.
        path: Its share of the critical path, once that is known.
    """

    job: Job
    created_ns: int | None
    has_span: bool = False
    start_ns: int = 0
    end_ns: int = 0
    runnable_ns: int | None = None
    active_ns: int | None = None
    resumed_ns: int | None = None
    outcome: Outcome = UNSET_OUTCOME
    retry: Retry | None = None
    manual: bool = False
    started: bool = True
    adjusted: bool = False
    path: PathShare | None = None

    @property
    def wait_ms(self) -> int | None:
        """How long it waited for an agent, in milliseconds; None if unknown or never started."""
        if self.runnable_ns is None or self.job.started_at is None:
            return None
        return max(self.start_ns - self.runnable_ns, 0) // NS_PER_MS

    def clamp(self, earliest_ns: int, latest_ns: int) -> None:
        """Limit all times to those of the build; mark the job as adjusted if its span moved."""
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
    """Return the build's jobs in payload order, without waiters.

    If several jobs have the same id, the last one wins.

    Raises:
        RecordError: A time cannot be parsed. The message holds its JSON path.
    """
    jobs = build.jobs or []
    found = []
    for job in {job.id: job for job in jobs}.values():
        if job.type == "waiter":
            continue
        try:
            found.append(_timed_job(job, retries.of(job.id), times))
        except (ValueError, OverflowError) as exc:
            path = f"$.jobs[{jobs.index(job)}].{_invalid_time_field(job)}"
            raise RecordError(f"Expected a time - at `{path}`", record_id=build.id) from exc
    return found


def _invalid_time_field(job: Job) -> str:
    """Return the name of the first time field of `job` that cannot be parsed."""
    times = Times()
    for name in TIME_FIELDS:
        try:
            times[getattr(job, name)]
        except (ValueError, OverflowError):
            return name
    return "?"


def _timed_job(job: Job, retry: Retry | None, times: Times) -> TimedJob:
    created = times[job.created_at]
    if job.state in NO_SPAN_STATES:
        return TimedJob(job, created)
    if job.type == "manual":
        return _timed_block_step(job, created, times)
    end = times[job.finished_at or job.expired_at]
    if end is None and job.state not in ENDED_STATES:
        return TimedJob(job, created)
    runnable = times[job.runnable_at]
    started = times[job.started_at]
    start = started if started is not None else _first_known(runnable, created, end)
    if start is None:
        return TimedJob(job, created)
    # A trigger job that has triggered a build ran, even if it has no `started_at`.
    ran = started is not None or job.state == "passed" or bool(_triggered_build_id(job))
    unknown = (runnable is None and created is None) or (ran and job.type == "script")
    adjusted = (started is None and unknown) or end is None or end < start
    end = start if end is None or end < start else end
    resumed = _first_known(created, runnable, start) if retry and retry.manual else None
    return TimedJob(
        job,
        created,
        has_span=True,
        start_ns=start,
        end_ns=end,
        runnable_ns=runnable,
        active_ns=resumed if resumed is not None else _active_from(runnable, started, end, ran=ran),
        resumed_ns=resumed,
        outcome=job_outcome(job),
        retry=retry,
        started=ran,
        adjusted=adjusted,
    )


def _timed_block_step(job: Job, created: int | None, times: Times) -> TimedJob:
    unblocked = times[job.unblocked_at]
    if unblocked is None:
        return TimedJob(job, created)
    return TimedJob(
        job,
        created,
        has_span=True,
        start_ns=unblocked,
        end_ns=unblocked,
        resumed_ns=unblocked,
        outcome=job_outcome(job),
        manual=True,
    )


def _active_from(runnable: int | None, started: int | None, end: int, *, ran: bool) -> int | None:
    """Return the earliest time at which the job was certainly active, None if it never was.

    Until about 2020 these times are whole seconds, rounded down. The real time may be as late
    as the end of that second, which is what is returned.
    """
    active = runnable if started is None else started
    if active is None:
        return end if ran else None
    if runnable is not None and runnable < active:
        active = runnable
    return active + NS_PER_S - 1 if active % NS_PER_S == 0 else active


def _first_known(*times: int | None) -> int | None:
    return next((time for time in times if time is not None), None)


def _triggered_build_id(job: Job) -> str | None:
    return job.triggered_build.id if job.triggered_build else None
