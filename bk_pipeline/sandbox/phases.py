"""What a build's own fields show over time, from the stages in which it ran."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bk_pipeline.sandbox.timeline import Build, Phase
from bk_pipeline.sandbox.work import NEVER


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
