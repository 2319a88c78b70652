"""Simulates single jobs and derives the phases of a build from its stages.

A job waits for an agent, runs, and may fail, expire or be canceled. A stage is
a period of activity of a build: block steps and manual retries end one and
begin the next. All times are milliseconds since 1970 (`times`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from random import Random

from bk_pipeline.sandbox.agents import AgentRequest, Task
from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.organization import Person
from bk_pipeline.sandbox.timeline import Build, Job, Phase, Retry
from bk_pipeline.sandbox.times import HOUR, MINUTE, SECOND

# A job that no agent accepts expires after this time.
EXPIRY_MS = 2 * HOUR
NEVER_MS = 1 << 62


class JobFailure(Enum):
    """What goes wrong with a job."""

    FAIL = auto()
    SOFT = auto()
    LOST = auto()  # the agent is lost, so there is no signal and no real exit status
    STOPPED = auto()  # the agent's host is terminated and the agent reports it
    TIMEOUT = auto()
    EXPIRE = auto()


class JobRunner:
    """Runs the jobs of one build.

    Args:
        rng: The source of all randomness.
        cluster: The name of the cluster whose agents run them, or None.
        cancel_ms: When the build is canceled; `NEVER_MS` if it is not.
    """

    def __init__(self, rng: Random, cluster: str | None, cancel_ms: int = NEVER_MS) -> None:
        self.rng = rng
        self.cluster = cluster
        self.cancel_ms = cancel_ms

    def run(self, job: Job, ready_ms: int, failure: JobFailure | None = None) -> Task[int]:
        """Run a job and fill in its times and its result. Returns when it ended.

        Args:
            job: The job.
            ready_ms: When the steps before it were done.
            failure: What goes wrong; None if the job passes.
        """
        rng = self.rng
        runnable_ms = ready_ms + 40 + int(rng.random() * 80)
        if runnable_ms >= self.cancel_ms:
            return _end_job(job, self.cancel_ms, "canceled")
        job.runnable_ms = runnable_ms
        if failure is JobFailure.EXPIRE:
            return self._expire(job)
        request = AgentRequest((self.cluster, job.step.queue), job.step.priority, runnable_ms)
        request.latest_ms = self.cancel_ms
        job.agent = yield request
        started_ms = request.started_ms
        if job.agent is None:
            return _end_job(job, self.cancel_ms + 20, "canceled")
        job.started_ms = started_ms
        duration_s = job.step.duration_s * math.exp(rng.gauss(0.0, 0.22))
        if failure in (JobFailure.FAIL, JobFailure.LOST, JobFailure.STOPPED):
            duration_s *= 0.3 + 0.7 * rng.random()
        request.ended_ms = self._finish(job, started_ms + int(duration_s * SECOND), failure)
        return request.ended_ms

    def start_trigger(self, job: Job, ready_ms: int) -> None:
        """Start a trigger job, which needs no agent, unless the build is canceled before."""
        runnable_ms = ready_ms + 40 + int(self.rng.random() * 80)
        if runnable_ms >= self.cancel_ms:
            _end_job(job, self.cancel_ms, "canceled")
            return
        job.runnable_ms = runnable_ms
        job.started_ms = runnable_ms + 20 + int(self.rng.random() * 200)

    def retry_of(self, job: Job, at_ms: int, kind: str, person: Person | None = None) -> Job:
        """A retry that replaces `job` from `at_ms` on.

        As in recorded responses, its `scheduled_ms` is that of the original job.

        Args:
            job: The original job; its `retry` is set.
            at_ms: When it is retried.
            kind: "automatic" or "manual".
            person: Who retried it manually.
        """
        attempt = Job(
            timed_uuid(at_ms, self.rng),
            job.kind,
            job.step,
            created_ms=at_ms,
            scheduled_ms=job.scheduled_ms,
            index=job.index,
            matrix=job.matrix,
            retries=(job.retries or 0) + 1,
            replaces=(job.id, kind),
        )
        job.retry = Retry(at_ms, attempt.id, kind, person)
        return attempt

    def _expire(self, job: Job) -> int:
        expires_ms = (job.runnable_ms or 0) + EXPIRY_MS
        if expires_ms >= self.cancel_ms:
            return _end_job(job, self.cancel_ms + 20, "canceled")
        return _end_job(job, expires_ms, "expired")

    def _finish(self, job: Job, finish_ms: int, failure: JobFailure | None) -> int:
        if failure is JobFailure.TIMEOUT and job.started_ms is not None:
            finish_ms = job.started_ms + job.step.timeout_minutes * MINUTE
        if finish_ms >= self.cancel_ms:
            return self._stop(job, self.cancel_ms, "canceled")
        if failure is JobFailure.TIMEOUT:
            return self._stop(job, finish_ms, "timed_out")
        if failure is None:
            job.exit_status = 0
            return _end_job(job, finish_ms, "passed")
        if failure in (JobFailure.LOST, JobFailure.STOPPED):
            job.exit_status = -1
            if failure is JobFailure.STOPPED:
                job.signal, job.signal_reason = "SIGTERM", "agent_stop"
        else:
            job.exit_status = self.rng.choice((1, 1, 1, 2, 127))
            job.soft_failed = failure is JobFailure.SOFT
        return _end_job(job, finish_ms, "failed")

    def _stop(self, job: Job, at_ms: int, state: str) -> int:
        """Ask the agent at `at_ms` to stop the job, which takes some seconds."""
        job.stopping_ms = at_ms
        job.exit_status, job.signal, job.signal_reason = -1, "SIGTERM", "cancel"
        return _end_job(job, at_ms + 900 + int(self.rng.random() * 6_000), state)


def _end_job(job: Job, at_ms: int, state: str) -> int:
    job.ended_ms, job.end_state = at_ms, state
    return at_ms


@dataclass(slots=True)
class Stage:
    """One period of activity of a build.

    Args:
        begin_ms: When it began.
        end_ms: When its last job ended.
        failed_ms: When a job first failed the build, or None.
        state: The build's state after the stage.
        blocked: Whether it ended at a block step.
        restarted: Whether a manual retry began it, which moves the build's `started_at`.
    """

    begin_ms: int
    end_ms: int
    failed_ms: int | None = None
    state: str = "passed"
    blocked: bool = False
    restarted: bool = False


def phases_of(build: Build, stages: list[Stage], cancel_ms: int, rng: Random) -> list[Phase]:
    """The build's phases in order of time.

    As in recorded responses, a stage ends 65 to 372 ms after its last job, and
    until the next stage begins `finished_at` is set.

    Args:
        build: The build with its jobs.
        stages: Its stages in order of time.
        cancel_ms: When it was canceled, or `NEVER_MS`.
        rng: The source of all randomness.
    """
    first_start_ms = min(
        (job.started_ms for job in build.jobs if job.started_ms is not None), default=None
    )
    started_ms = first_start_ms
    phases = [Phase(build.created_ms, "scheduled")]
    for stage in stages:
        if stage.restarted:
            # As recorded: the start moves to the retry and is not the start of any job.
            phases.append(Phase(stage.begin_ms, "scheduled", started_ms))
            started_ms = stage.begin_ms + rng.randint(30, 400)
            phases.append(Phase(started_ms, "running", started_ms))
        elif stage is not stages[0]:
            phases.append(Phase(stage.begin_ms, "running", started_ms))
        elif first_start_ms is not None:
            phases.append(Phase(first_start_ms, "running", started_ms))
        failing_ms = stage.failed_ms
        if failing_ms is not None and failing_ms + 5 < stage.end_ms:
            phases.append(Phase(failing_ms + 5, "failing", started_ms, failing_ms=failing_ms))
        if stage.state == "canceled" and cancel_ms < NEVER_MS:
            phases.append(Phase(cancel_ms, "canceling", started_ms, failing_ms=failing_ms))
        finished_ms = stage.end_ms + rng.randint(65, 372)
        phases.append(
            Phase(finished_ms, stage.state, started_ms, finished_ms, failing_ms, stage.blocked)
        )
    return phases
