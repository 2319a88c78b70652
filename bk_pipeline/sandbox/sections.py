"""A pipeline's steps as the jobs of one build, in the order in which they come to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from bk_pipeline.sandbox.blueprint import Step
from bk_pipeline.sandbox.fates import Fate
from bk_pipeline.sandbox.identity import timed_uuid
from bk_pipeline.sandbox.timeline import Build, Job

_HARMLESS = (Fate.PASSES, Fate.SKIPPED, Fate.CANCELED_EARLY, Fate.CANCELED_RUNNING)


@dataclass(slots=True)
class Section:
    """Jobs that run side by side, and the wait or gate after them."""

    jobs: list[Job] = field(default_factory=list)
    gate: Job | None = None

    def everything(self) -> list[Job]:
        return self.jobs if self.gate is None else [*self.jobs, self.gate]


def sections_of(build: Build, upload: Job, rng: Random) -> list[Section]:
    """The jobs that `upload` adds to the build, all at once and while it is still running.

    Their `scheduled` is the uploading job's, as recorded.
    """
    begun, ended = upload.started or 0, upload.ended or 0
    created = begun + int((ended - begun) * 0.7)
    sections = [Section()]
    for step in build.pipeline.blueprint.steps:
        jobs = [
            Job(
                timed_uuid(created, rng),
                step.kind,
                step,
                created,
                upload.created,
                index=index,
                matrix=matrix,
            )
            for index, matrix in _cells(step)
        ]
        build.jobs += jobs
        if step.kind in ("waiter", "manual"):
            sections[-1].gate = jobs[0]
            sections.append(Section())
        else:
            sections[-1].jobs += jobs
    return sections


def victim_of(fate: Fate, sections: list[Section], rng: Random) -> Job | None:
    """The job that the build's fate befalls; None if none does, or none can."""
    if fate in _HARMLESS:
        return None
    jobs: list[Job] = []
    for section in sections:
        jobs += [job for job in section.jobs if job.kind == "script" and _may_suffer(job, fate)]
        # Beyond a gate it might never be reached.
        if section.gate is not None and section.gate.kind == "manual":
            break
    return rng.choice(jobs) if jobs else None


def is_left_out(job: Job, build: Build) -> bool:
    """Whether the job's condition does not hold for this build."""
    return job.step.main_only and build.change.branch != build.pipeline.blueprint.default_branch


def _cells(step: Step) -> list[tuple[int | None, dict[str, str] | None]]:
    """Parallel index and matrix values of each of the step's jobs."""
    if step.parallel:
        return [(number, None) for number in range(step.parallel)]
    if step.matrix:
        return [(None, cell) for cell in step.matrix]
    return [(None, None)]


def _may_suffer(job: Job, fate: Fate) -> bool:
    if job.step.main_only:
        return False
    if fate is Fate.SOFT_FAILS:
        return job.step.soft_fail
    if fate is Fate.FLAKY:
        return job.step.retries > 0
    return not job.step.soft_fail
