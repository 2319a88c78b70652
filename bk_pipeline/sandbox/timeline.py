"""The complete history of simulated builds and their jobs.

`as_of` derives the API's response for any time from these records. They are
small, because a day can have 50,000 builds with half a million jobs. All times
are milliseconds since 1970 (`times`).

`gc=False` excludes the jobs from garbage collection. That is safe only while
there are no reference cycles, so builds refer to each other by `Reference`.
"""

from __future__ import annotations

import msgspec

from bk_pipeline.sandbox.blueprint import Step
from bk_pipeline.sandbox.changes import Change
from bk_pipeline.sandbox.organization import Agent, Person, Pipeline

FINISHED_JOB_STATES = frozenset({"passed", "failed", "canceled", "timed_out", "expired"})


class Reference(msgspec.Struct, gc=False):
    """Identifies a build. `number` is 0 until the builds of its day are numbered."""

    id: str
    slug: str
    number: int = 0


class Retry(msgspec.Struct, frozen=True, gc=False):
    """The retry of a job: from `at_ms` on, the job `job_id` replaces it."""

    at_ms: int
    job_id: str
    kind: str
    person: Person | None


class Job(msgspec.Struct, gc=False, eq=False):
    """One job.

    Attributes:
        runnable_ms: When it could have started; for a manual job, when the build reached it.
        ended_ms: When it entered `end_state`. Shown as `finished_at` only for the states in
            `FINISHED_JOB_STATES`.
        stopping_ms: When a person or a timeout asked the running job to stop.
        held: The period in which it could not start because the build had failed. The end is
            None if it never started.
        index: Its index among parallel jobs.
        replaces: The id of the job that it retries, and the type of the retry.
        child: The build that a trigger job triggered.
    """

    id: str
    kind: str
    step: Step
    created_ms: int
    scheduled_ms: int
    runnable_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    end_state: str = ""
    exit_status: int | None = None
    soft_failed: bool = False
    signal: str | None = None
    signal_reason: str | None = None
    stopping_ms: int | None = None
    held: tuple[int, int | None] | None = None
    agent: Agent | None = None
    index: int | None = None
    matrix: dict[str, str] | None = None
    retries: int | None = None
    retry: Retry | None = None
    replaces: tuple[str, str] | None = None
    unblocked_by: Person | None = None
    child: Reference | None = None


class Phase(msgspec.Struct, frozen=True, gc=False):
    """The values of a build's own fields from `at_ms` until the next phase."""

    at_ms: int
    state: str
    started_ms: int | None = None
    finished_ms: int | None = None
    failing_ms: int | None = None
    blocked: bool = False


class Build(msgspec.Struct, eq=False):
    """The complete history of a build. `jobs` are in the API's order, `phases` in order of time."""

    ref: Reference
    pipeline: Pipeline
    created_ms: int
    change: Change
    cancel_reason: str | None = None
    rebuilt_from: Reference | None = None
    triggered_from: Reference | None = None
    jobs: list[Job] = []
    phases: list[Phase] = []

    def phase_at(self, at_ms: int) -> Phase | None:
        """The phase at a given time, or None before the build was created."""
        for phase in reversed(self.phases):
            if phase.at_ms <= at_ms:
                return phase
        return None
