"""The life of one job: waiting for an agent, running, and what may go wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from random import Random

from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.organization import Agent, Person
from bk_pipeline.sandbox.timeline import Build, Job, Phase, Retry
from bk_pipeline.sandbox.times import HOUR, MINUTE, SECOND, load_at

# Median waits for an agent at quiet times.
_WAIT = {"default": 1_200, "arm": 2_500, "macos": 18_000, "deploy": 900, "gpu": 40_000}
# The organization's setting: an unclaimed job is given up after this.
EXPIRY = 2 * HOUR
NEVER = 1 << 62


class Mishap(Enum):
    FAIL = auto()
    SOFT = auto()
    LOST = auto()  # the agent vanished: nobody could report an exit status or a signal
    STOPPED = auto()  # the agent's host was taken away and the agent said so
    TIMEOUT = auto()
    EXPIRE = auto()


class Floor:
    """Where the jobs of one build are done.

    Args:
        cancel_at: When somebody cancels the build; `NEVER` otherwise.
    """

    def __init__(
        self, rng: Random, pools: dict[str, tuple[Agent, ...]], cancel_at: int = NEVER
    ) -> None:
        self.rng = rng
        self.pools = pools
        self.cancel_at = cancel_at

    def perform(self, job: Job, opens: int, mishap: Mishap | None = None) -> int:
        """When `job`, free to run from `opens`, ended. Fills in its times and its end."""
        rng = self.rng
        runnable = opens + 40 + int(rng.random() * 80)
        if runnable >= self.cancel_at:
            return _end(job, self.cancel_at, "canceled")
        job.runnable = runnable
        if mishap is Mishap.EXPIRE:
            return self._expire(job)
        started = runnable + self._wait(job.step.queue, runnable)
        if started >= self.cancel_at:
            return _end(job, self.cancel_at + 20, "canceled")
        job.started = started
        job.agent = rng.choice(self.pools[job.step.queue])
        seconds = job.step.seconds * math.exp(rng.gauss(0.0, 0.22))
        if mishap in (Mishap.FAIL, Mishap.LOST, Mishap.STOPPED):
            seconds *= 0.3 + 0.7 * rng.random()
        return self._conclude(job, started + int(seconds * SECOND), mishap)

    def trigger(self, job: Job, opens: int) -> None:
        """Marks a trigger job as begun, or as canceled. There is no agent to wait for."""
        runnable = opens + 40 + int(self.rng.random() * 80)
        if runnable >= self.cancel_at:
            _end(job, self.cancel_at, "canceled")
            return
        job.runnable = runnable
        job.started = runnable + 20 + int(self.rng.random() * 200)

    def attempt_after(self, job: Job, at: int, kind: str, person: Person | None = None) -> Job:
        """The job that replaces `job` from `at` on. Its `scheduled` stays the original's."""
        attempt = Job(
            timed_uuid(at, self.rng),
            job.kind,
            job.step,
            created=at,
            scheduled=job.scheduled,
            index=job.index,
            matrix=job.matrix,
            retries=(job.retries or 0) + 1,
            replaces=(job.id, kind),
        )
        job.retry = Retry(at, attempt.id, kind, person)
        return attempt

    def _wait(self, queue: str, moment: int) -> int:
        return int(_WAIT[queue] * load_at(moment) * math.exp(self.rng.gauss(0.0, 0.7)))

    def _expire(self, job: Job) -> int:
        expires = (job.runnable or 0) + EXPIRY
        if expires >= self.cancel_at:
            return _end(job, self.cancel_at + 20, "canceled")
        return _end(job, expires, "expired")

    def _conclude(self, job: Job, finish: int, mishap: Mishap | None) -> int:
        if mishap is Mishap.TIMEOUT and job.started is not None:
            finish = job.started + job.step.timeout_minutes * MINUTE
        if finish >= self.cancel_at:
            return self._stop(job, self.cancel_at, "canceled")
        if mishap is Mishap.TIMEOUT:
            return self._stop(job, finish, "timed_out")
        if mishap is None:
            job.exit_status = 0
            return _end(job, finish, "passed")
        if mishap in (Mishap.LOST, Mishap.STOPPED):
            job.exit_status = -1
            if mishap is Mishap.STOPPED:
                job.signal, job.signal_reason = "SIGTERM", "agent_stop"
        else:
            job.exit_status = self.rng.choice((1, 1, 1, 2, 127))
            job.soft_failed = mishap is Mishap.SOFT
        return _end(job, finish, "failed")

    def _stop(self, job: Job, at: int, state: str) -> int:
        """The agent is told at `at` to stop the job and takes some seconds over it."""
        job.stopping = at
        job.exit_status, job.signal, job.signal_reason = -1, "SIGTERM", "cancel"
        return _end(job, at + 900 + int(self.rng.random() * 6_000), state)


def _end(job: Job, at: int, state: str) -> int:
    job.ended, job.end_state = at, state
    return at


@dataclass(slots=True)
class Stage:
    """One period of activity.

    Args:
        end: When its last job ended.
        failed_at: The first hard failure, if any.
        state: What the build's state is when the stage is over.
        blocked: It ended at a block step.
        restarted: A manual retry began it; then the build's `started_at` moves.
    """

    begin: int
    end: int
    failed_at: int | None = None
    state: str = "passed"
    blocked: bool = False
    restarted: bool = False


def phases_of(build: Build, stages: list[Stage], cancel_at: int, rng: Random) -> list[Phase]:
    """The build's phases in order of time.

    A stage is over some 65 to 372 ms after its last job, as recorded. The
    build waits there (`finished_at` set) until the next stage begins.
    """
    first_start = min((job.started for job in build.jobs if job.started is not None), default=None)
    started = first_start
    phases = [Phase(build.created, "scheduled")]
    for stage in stages:
        if stage.restarted:
            # Recorded: the start moves to the retry, and is no job's start.
            phases.append(Phase(stage.begin, "scheduled", started))
            started = stage.begin + rng.randint(30, 400)
            phases.append(Phase(started, "running", started))
        elif stage is not stages[0]:
            phases.append(Phase(stage.begin, "running", started))
        elif first_start is not None:
            phases.append(Phase(first_start, "running", started))
        failing = stage.failed_at
        if failing is not None and failing + 5 < stage.end:
            phases.append(Phase(failing + 5, "failing", started, failing=failing))
        if stage.state == "canceled" and cancel_at < NEVER:
            phases.append(Phase(cancel_at, "canceling", started, failing=failing))
        finished = stage.end + rng.randint(65, 372)
        phases.append(Phase(finished, stage.state, started, finished, failing, stage.blocked))
    return phases
