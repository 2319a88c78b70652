"""What happened to a build, from beginning to end, with the time of each thing.

The API's answer for any moment is read off these records (`as_of`). They are
kept small, since a day may hold 50,000 builds with half a million jobs. All
times are milliseconds (`times`).

`gc=False` takes the jobs out of the garbage collector's rounds; it holds as
long as no record here leads back to itself, which is why builds name each
other by `Reference`.
"""

from __future__ import annotations

import msgspec

from bk_pipeline.sandbox.blueprint import Step
from bk_pipeline.sandbox.changes import Change
from bk_pipeline.sandbox.organization import Agent, Person, Pipeline

FINISHED_JOB_STATES = frozenset({"passed", "failed", "canceled", "timed_out", "expired"})


class Reference(msgspec.Struct, gc=False):
    """A build as others name it. `number` is 0 until its day has been put in order."""

    id: str
    slug: str
    number: int = 0


class Retry(msgspec.Struct, frozen=True, gc=False):
    """An attempt's replacement: from `at` on, `job_id` stands in its place."""

    at: int
    job_id: str
    kind: str
    person: Person | None


class Job(msgspec.Struct, gc=False, eq=False):
    """One job.

    `runnable` is when it could have started; for a manual job, when the build
    reached it. `ended` is when it took `end_state`, shown as `finished_at`
    only for states that finish. `stopping` is when somebody, or a timeout,
    asked the running job to stop. `held` says from when until when (None: for
    good) its turn did not come because the build had failed.
    """

    id: str
    kind: str
    step: Step
    created: int
    scheduled: int
    runnable: int | None = None
    started: int | None = None
    ended: int | None = None
    end_state: str = ""
    exit_status: int | None = None
    soft_failed: bool = False
    signal: str | None = None
    signal_reason: str | None = None
    stopping: int | None = None
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
    """What the build's own fields show from `at` until the next phase."""

    at: int
    state: str
    started: int | None = None
    finished: int | None = None
    failing: int | None = None
    blocked: bool = False


class Build(msgspec.Struct, eq=False):
    """One build's whole life. `jobs` in the order of the API, `phases` in order of time."""

    ref: Reference
    pipeline: Pipeline
    created: int
    change: Change
    cancel_reason: str | None = None
    rebuilt_from: Reference | None = None
    triggered_from: Reference | None = None
    jobs: list[Job] = []
    phases: list[Phase] = []

    def phase_at(self, moment: int) -> Phase | None:
        """The phase in force at `moment`; None before the build was created."""
        for phase in reversed(self.phases):
            if phase.at <= moment:
                return phase
        return None
