"""One build run through its pipeline: sections, gates, failures, retries, cancellation.

The result is a whole life, however long it takes; `as_of` shows it as far as
it has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from bk_pipeline.sandbox.blueprint import Step
from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.organization import Organization
from bk_pipeline.sandbox.pipelines import UPLOAD
from bk_pipeline.sandbox.scenario import Fate
from bk_pipeline.sandbox.timeline import Build, Job, Phase
from bk_pipeline.sandbox.times import HOUR, MINUTE, SECOND
from bk_pipeline.sandbox.work import NEVER, Floor, Mishap, Stage, phases_of

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


# A trigger job's way to start its build: pipeline slug, time, the build it belongs to.
# None when the triggered build would fall on another day.
Spawn = Callable[[str, int, Build], Build | None]

_MISHAPS = {
    Fate.FAILS: Mishap.FAIL,
    Fate.REBUILT: Mishap.FAIL,
    Fate.RETRIED_SOON: Mishap.FAIL,
    Fate.RETRIED_LATE: Mishap.FAIL,
    Fate.SOFT_FAILS: Mishap.SOFT,
    Fate.TIMES_OUT: Mishap.TIMEOUT,
    Fate.EXPIRES: Mishap.EXPIRE,
}
# How long after the failure somebody retries the job, from and to.
_RETRY_PAUSES = {
    Fate.RETRIED_SOON: (MINUTE, 15 * MINUTE),
    Fate.RETRIED_LATE: (2 * HOUR, 9 * HOUR),
}
# How long a gate stays closed, from and to; None: for good.
_PATIENCE = ((MINUTE, 25 * MINUTE), (2 * HOUR, 20 * HOUR), None)
_PATIENCE_SHARES = (45, 35, 20)


class Run:
    """The simulation of one build. `play` fills in the build's jobs and phases."""

    def __init__(
        self, build: Build, fate: Fate, rng: Random, organization: Organization, spawn: Spawn
    ) -> None:
        self.build = build
        self.fate = fate
        self.rng = rng
        self.organization = organization
        self.spawn = spawn
        self.floor = Floor(rng, organization.pools)
        self.stages: list[Stage] = []

    def play(self) -> None:
        if self.fate is Fate.SKIPPED:
            self.build.phases = [Phase(self.build.created, "skipped")]
            return
        upload = self._upload()
        stage = Stage(self.build.created, upload.ended or 0)
        self.stages.append(stage)
        if upload.end_state == "canceled":
            stage.state = "canceled"
        else:
            self._through(sections_of(self.build, upload, self.rng), stage)
        self.build.phases = phases_of(self.build, self.stages, self.floor.cancel_at, self.rng)

    def _upload(self) -> Job:
        """The first job. It is created some milliseconds before its build, as recorded."""
        rng, build = self.rng, self.build
        created = build.created - rng.randint(9, 105)
        upload = Job(timed_uuid(created, rng), "script", UPLOAD, created, created)
        if self.fate is Fate.CANCELED_EARLY:
            self.floor.cancel_at = created + rng.randint(3, 40) * SECOND
            # Agents are so scarce that the job would have waited longer than that.
            self.floor.perform(upload, created, Mishap.EXPIRE)
        else:
            self.floor.perform(upload, created)
        if self.fate is Fate.CANCELED_RUNNING and upload.ended is not None:
            self.floor.cancel_at = upload.ended + rng.randint(5, 150) * SECOND
        build.jobs = [upload]
        return upload

    def _through(self, sections: list[Section], stage: Stage) -> None:
        victim = victim_of(self.fate, sections, self.rng)
        now = stage.end
        for number, section in enumerate(sections):
            now = self._section(section, now, victim, stage)
            if now >= self.floor.cancel_at:
                self._cancel(sections[number:], stage)
                return
            if stage.failed_at is not None:
                now, stage = self._retry(sections[number:], victim, stage)
                if stage.failed_at is not None:
                    return
            if section.gate is not None and section.gate.kind == "manual":
                stage.blocked = True
                opened = self._unblock(section.gate, now)
                if opened is None:
                    return
                now, stage = opened, Stage(opened, opened)
                self.stages.append(stage)

    def _section(self, section: Section, opens: int, victim: Job | None, stage: Stage) -> int:
        """When the last of the section's jobs ended. Notes the first hard failure in `stage`."""
        latest = opens
        for job in section.jobs:
            if job.kind == "trigger":
                ended = self._trigger(job, opens)
            elif is_left_out(job, self.build):
                job.ended, job.end_state = opens, "broken"
                continue
            elif job is victim:
                ended = self._suffer(job, opens)
            else:
                ended = self.floor.perform(job, opens)
            latest = max(latest, ended)
            if self._failed(job):
                stage.failed_at = min(ended, stage.failed_at or ended)
        stage.end = latest
        return latest

    @staticmethod
    def _failed(job: Job) -> bool:
        """Whether the job as it stands fails its build: no soft failure, not retried."""
        hard = job.end_state in ("failed", "timed_out", "expired") and not job.soft_failed
        return hard and job.retry is None

    def _suffer(self, job: Job, opens: int) -> int:
        rng = self.rng
        if self.fate is Fate.FLAKY:
            ended = self.floor.perform(job, opens, rng.choice((Mishap.FAIL, Mishap.STOPPED)))
            if job.end_state != "failed":
                return ended
            at = ended + rng.randint(150, 900)
            return self._again(job, at, "automatic")
        if self.fate is Fate.AGENT_LOST:
            return self.floor.perform(job, opens, rng.choice((Mishap.LOST, Mishap.STOPPED)))
        return self.floor.perform(job, opens, _MISHAPS[self.fate])

    def _again(self, job: Job, at: int, kind: str) -> int:
        """When the new attempt at `job` ended; it stands right behind the old one."""
        person = self.rng.choice(self.organization.people) if kind == "manual" else None
        attempt = self.floor.attempt_after(job, at, kind, person)
        self.build.jobs.insert(self.build.jobs.index(job) + 1, attempt)
        return self.floor.perform(attempt, at)

    def _trigger(self, job: Job, opens: int) -> int:
        if is_left_out(job, self.build):
            job.ended, job.end_state = opens, "broken"
            return opens
        self.floor.trigger(job, opens)
        if job.started is None:
            return job.ended or opens
        child = self.spawn(job.step.target or "", job.started + 30, self.build)
        if child is None:
            job.runnable = job.started = None
            job.ended, job.end_state = opens, "broken"
            return opens
        job.child = child.ref
        first_end = next((p for p in child.phases if p.finished is not None), None)
        if job.step.is_async or first_end is None or first_end.finished is None:
            job.ended, job.end_state = job.started + 60, "passed"
        else:
            job.ended = first_end.finished + self.rng.randint(40, 300)
            job.end_state = "passed" if first_end.state == "passed" else "failed"
        if job.ended >= self.floor.cancel_at:
            job.stopping = self.floor.cancel_at
            job.ended, job.end_state = job.stopping + 500, "canceled"
        return job.ended

    def _cancel(self, rest: list[Section], stage: Stage) -> None:
        cancel_at = self.floor.cancel_at
        for section in rest:
            for job in section.everything():
                if job.ended is None:
                    job.ended, job.end_state = cancel_at, "canceled"
        stage.state, stage.failed_at = "canceled", None
        stage.end = max(stage.end, cancel_at)

    def _unblock(self, gate: Job, now: int) -> int | None:
        """When somebody unblocked the gate, or None: nobody ever did."""
        # Whoever meant to cancel the build is content that it waits here.
        self.floor.cancel_at = NEVER
        gate.runnable = now + 60
        patience = self.rng.choices(_PATIENCE, _PATIENCE_SHARES)[0]
        if patience is None:
            return None
        wait = self.rng.randint(*patience)
        gate.ended, gate.end_state = gate.runnable + wait, "unblocked"
        gate.unblocked_by = self.rng.choice(self.organization.people)
        return gate.ended

    def _retry(self, rest: list[Section], victim: Job | None, stage: Stage) -> tuple[int, Stage]:
        """When, and in which stage, the build went on after a hard failure.

        A build that nobody retries stays in `stage`, which has failed; what
        would have come next is held for good.
        """
        retried_at = None
        if victim is not None and self.fate in _RETRY_PAUSES and self._failed(victim):
            retried_at = stage.end + self.rng.randint(*_RETRY_PAUSES[self.fate])
        for section in rest:
            for job in section.everything():
                if job.ended is None:
                    job.held = (stage.end, retried_at)
        stage.state = "failed"
        if retried_at is None or victim is None:
            return stage.end, stage
        new_stage = Stage(retried_at, retried_at, restarted=True)
        self.stages.append(new_stage)
        new_stage.end = self._again(victim, retried_at, "manual")
        return new_stage.end, new_stage
