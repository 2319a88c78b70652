"""Simulates one build from beginning to end: sections, barriers, failures, retries, cancellation.

The result is the complete history of the build. `as_of` shows the part of it
that has happened at a given time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from bk_pipeline.sandbox.agents import Spawn, Task
from bk_pipeline.sandbox.blueprint import Scenario, Step
from bk_pipeline.sandbox.credentials import timed_uuid
from bk_pipeline.sandbox.jobs import NEVER_MS, JobFailure, JobRunner, Stage, phases_of
from bk_pipeline.sandbox.organization import Organization
from bk_pipeline.sandbox.pipelines import UPLOAD
from bk_pipeline.sandbox.timeline import Build, Job, Phase
from bk_pipeline.sandbox.times import HOUR, MINUTE, SECOND

_UNAFFECTED = (
    Scenario.PASSES,
    Scenario.SKIPPED,
    Scenario.CANCELED_EARLY,
    Scenario.CANCELED_RUNNING,
)


# Creates the build of a trigger job, from pipeline slug, time and the triggering build, with the
# task that simulates it. Returns None if the triggered build would fall on another day.
TriggerBuild = Callable[[str, int, Build], tuple[Build, Task[None]] | None]

_FAILURES = {
    Scenario.FAILS: JobFailure.FAIL,
    Scenario.REBUILT: JobFailure.FAIL,
    Scenario.RETRIED_SOON: JobFailure.FAIL,
    Scenario.RETRIED_LATE: JobFailure.FAIL,
    Scenario.SOFT_FAILS: JobFailure.SOFT,
    Scenario.TIMES_OUT: JobFailure.TIMEOUT,
    Scenario.EXPIRES: JobFailure.EXPIRE,
}
# Shortest and longest time from a failure to a manual retry.
_RETRY_DELAYS = {
    Scenario.RETRIED_SOON: (MINUTE, 15 * MINUTE),
    Scenario.RETRIED_LATE: (2 * HOUR, 9 * HOUR),
}
# Shortest and longest time until a block step is unblocked; None for never.
_UNBLOCK_DELAYS = ((MINUTE, 25 * MINUTE), (2 * HOUR, 20 * HOUR), None)
_UNBLOCK_SHARES = (45, 35, 20)


class BuildSimulation:
    """The simulation of one build.

    Args:
        build: The build, without jobs and phases.
        scenario: What is special about it.
        rng: The source of all randomness.
        organization: Its people and agents.
        trigger_build: Starts the builds of trigger jobs.
    """

    def __init__(
        self,
        build: Build,
        scenario: Scenario,
        rng: Random,
        organization: Organization,
        trigger_build: TriggerBuild,
    ) -> None:
        self.build = build
        self.scenario = scenario
        self.rng = rng
        self.organization = organization
        self.trigger_build = trigger_build
        self.runner = JobRunner(rng, build.pipeline.blueprint.cluster)
        self.stages: list[Stage] = []

    def run(self) -> Task[None]:
        """Fill in the build's jobs and phases."""
        if self.scenario is Scenario.SKIPPED:
            self.build.phases = [Phase(self.build.created_ms, "skipped")]
            return
        upload = yield from self._upload()
        stage = Stage(self.build.created_ms, upload.ended_ms or 0)
        self.stages.append(stage)
        if upload.end_state == "canceled":
            stage.state = "canceled"
        else:
            yield from self._run_sections(
                _sections_from_upload(self.build, upload, self.rng), stage
            )
        self.build.phases = phases_of(self.build, self.stages, self.runner.cancel_ms, self.rng)

    def _upload(self) -> Task[Job]:
        """The first job. As in recorded responses, it is created some milliseconds before its build."""
        rng, build = self.rng, self.build
        created_ms = build.created_ms - rng.randint(9, 105)
        upload = Job(timed_uuid(created_ms, rng), "script", UPLOAD, created_ms, created_ms)
        if self.scenario is Scenario.CANCELED_EARLY:
            self.runner.cancel_ms = created_ms + rng.randint(3, 40) * SECOND
            # The job waits for an agent until it is canceled.
            yield from self.runner.run(upload, created_ms, JobFailure.EXPIRE)
        else:
            yield from self.runner.run(upload, created_ms)
        if self.scenario is Scenario.CANCELED_RUNNING and upload.ended_ms is not None:
            self.runner.cancel_ms = upload.ended_ms + rng.randint(5, 150) * SECOND
        build.jobs = [upload]
        return upload

    def _run_sections(self, sections: list[_Section], stage: Stage) -> Task[None]:
        affected = _affected_job(self.scenario, sections, self.rng)
        now_ms = stage.end_ms
        for number, section in enumerate(sections):
            now_ms = yield from self._run_section(section, now_ms, affected, stage)
            if now_ms >= self.runner.cancel_ms:
                self._cancel_remaining(sections[number:], stage)
                return
            if stage.failed_ms is not None:
                now_ms, stage = yield from self._retry_failed_stage(
                    sections[number:], affected, stage
                )
                if stage.failed_ms is not None:
                    return
            if section.barrier is not None and section.barrier.kind == "manual":
                stage.blocked = True
                opened_ms = self._unblock(section.barrier, now_ms)
                if opened_ms is None:
                    return
                now_ms, stage = opened_ms, Stage(opened_ms, opened_ms)
                self.stages.append(stage)

    def _run_section(
        self, section: _Section, ready_ms: int, affected: Job | None, stage: Stage
    ) -> Task[int]:
        """Run a section's jobs. Returns when the last one ended; records failures in `stage`."""
        jobs, tasks = [], []
        for job in section.jobs:
            if job.kind == "trigger":
                tasks.append(self._run_trigger_job(job, ready_ms))
            elif _condition_fails(job, self.build):
                job.ended_ms, job.end_state = ready_ms, "broken"
                continue
            elif job is affected:
                tasks.append(self._run_affected_job(job, ready_ms))
            else:
                tasks.append(self.runner.run(job, ready_ms))
            jobs.append(job)
        ends_ms = yield tasks
        for job, ended_ms in zip(jobs, ends_ms, strict=True):
            if self._is_hard_failure(job):
                stage.failed_ms = min(ended_ms, stage.failed_ms or ended_ms)
        stage.end_ms = max([ready_ms, *ends_ms])
        return stage.end_ms

    @staticmethod
    def _is_hard_failure(job: Job) -> bool:
        """Whether the job fails its build: no soft failure, and not retried."""
        hard = job.end_state in ("failed", "timed_out", "expired") and not job.soft_failed
        return hard and job.retry is None

    def _run_affected_job(self, job: Job, ready_ms: int) -> Task[int]:
        """Run the job that the scenario affects. Returns when it, or its retry, ended."""
        rng = self.rng
        if self.scenario is Scenario.FLAKY:
            ended_ms = yield from self.runner.run(
                job, ready_ms, rng.choice((JobFailure.FAIL, JobFailure.STOPPED))
            )
            if job.end_state != "failed":
                return ended_ms
            at_ms = ended_ms + rng.randint(150, 900)
            return (yield from self._retry_job(job, at_ms, "automatic"))
        failure = (
            rng.choice((JobFailure.LOST, JobFailure.STOPPED))
            if self.scenario is Scenario.AGENT_LOST
            else _FAILURES[self.scenario]
        )
        return (yield from self.runner.run(job, ready_ms, failure))

    def _retry_job(self, job: Job, at_ms: int, kind: str) -> Task[int]:
        """Retry `job`. The new job follows it in the build's list. Returns when the new job ended."""
        person = self.rng.choice(self.organization.people) if kind == "manual" else None
        attempt = self.runner.retry_of(job, at_ms, kind, person)
        self.build.jobs.insert(self.build.jobs.index(job) + 1, attempt)
        return (yield from self.runner.run(attempt, at_ms))

    def _run_trigger_job(self, job: Job, ready_ms: int) -> Task[int]:
        """Run a trigger job, which waits for its build unless it is async. Returns when it ended."""
        if _condition_fails(job, self.build):
            job.ended_ms, job.end_state = ready_ms, "broken"
            return ready_ms
        self.runner.start_trigger(job, ready_ms)
        if job.started_ms is None:
            return job.ended_ms or ready_ms
        triggered = self.trigger_build(job.step.target or "", job.started_ms + 30, self.build)
        if triggered is None:
            job.runnable_ms = job.started_ms = None
            job.ended_ms, job.end_state = ready_ms, "broken"
            return ready_ms
        child, task = triggered
        job.child = child.ref
        yield Spawn(task) if job.step.is_async else [task]
        first_finish = next((p for p in child.phases if p.finished_ms is not None), None)
        if job.step.is_async or first_finish is None or first_finish.finished_ms is None:
            job.ended_ms, job.end_state = job.started_ms + 60, "passed"
        else:
            job.ended_ms = first_finish.finished_ms + self.rng.randint(40, 300)
            job.end_state = "passed" if first_finish.state == "passed" else "failed"
        if job.ended_ms >= self.runner.cancel_ms:
            job.stopping_ms = self.runner.cancel_ms
            job.ended_ms, job.end_state = job.stopping_ms + 500, "canceled"
        return job.ended_ms

    def _cancel_remaining(self, remaining: list[_Section], stage: Stage) -> None:
        cancel_ms = self.runner.cancel_ms
        for section in remaining:
            for job in section.all_jobs():
                if job.ended_ms is None:
                    job.ended_ms, job.end_state = cancel_ms, "canceled"
        stage.state, stage.failed_ms = "canceled", None
        stage.end_ms = max(stage.end_ms, cancel_ms)

    def _unblock(self, barrier: Job, now_ms: int) -> int | None:
        """Simulate a block step. Returns when it was unblocked, or None if it never was."""
        # A build that waits here is not canceled any more.
        self.runner.cancel_ms = NEVER_MS
        barrier.runnable_ms = now_ms + 60
        delay_range = self.rng.choices(_UNBLOCK_DELAYS, _UNBLOCK_SHARES)[0]
        if delay_range is None:
            return None
        wait_ms = self.rng.randint(*delay_range)
        barrier.ended_ms, barrier.end_state = barrier.runnable_ms + wait_ms, "unblocked"
        barrier.unblocked_by = self.rng.choice(self.organization.people)
        return barrier.ended_ms

    def _retry_failed_stage(
        self, remaining: list[_Section], affected: Job | None, stage: Stage
    ) -> Task[tuple[int, Stage]]:
        """Retry the affected job after a hard failure, if the scenario says so.

        Returns when, and in which stage, the build continued. Without a retry
        that is `stage`, which has failed, and the remaining jobs never start.
        """
        retried_ms = None
        if (
            affected is not None
            and self.scenario in _RETRY_DELAYS
            and self._is_hard_failure(affected)
        ):
            retried_ms = stage.end_ms + self.rng.randint(*_RETRY_DELAYS[self.scenario])
        for section in remaining:
            for job in section.all_jobs():
                if job.ended_ms is None:
                    job.held = (stage.end_ms, retried_ms)
        stage.state = "failed"
        if retried_ms is None or affected is None:
            return stage.end_ms, stage
        new_stage = Stage(retried_ms, retried_ms, restarted=True)
        self.stages.append(new_stage)
        new_stage.end_ms = yield from self._retry_job(affected, retried_ms, "manual")
        return new_stage.end_ms, new_stage


@dataclass(slots=True)
class _Section:
    """Jobs that run in parallel, and the barrier after them: a wait or block step."""

    jobs: list[Job] = field(default_factory=list)
    barrier: Job | None = None

    def all_jobs(self) -> list[Job]:
        """The jobs, followed by the barrier's job if there is one."""
        return self.jobs if self.barrier is None else [*self.jobs, self.barrier]


def _sections_from_upload(build: Build, upload: Job, rng: Random) -> list[_Section]:
    """Add the pipeline's jobs to the build, and return them by section.

    They are all created at once, while the `upload` job is still running. As
    in recorded responses, their `scheduled_ms` is that of the `upload` job.
    """
    begun_ms, ended_ms = upload.started_ms or 0, upload.ended_ms or 0
    created_ms = begun_ms + int((ended_ms - begun_ms) * 0.7)
    sections = [_Section()]
    for step in build.pipeline.blueprint.steps:
        jobs = [
            Job(
                timed_uuid(created_ms, rng),
                step.kind,
                step,
                created_ms,
                upload.created_ms,
                index=index,
                matrix=matrix,
            )
            for index, matrix in _matrix_cells(step)
        ]
        build.jobs += jobs
        if step.kind in ("waiter", "manual"):
            sections[-1].barrier = jobs[0]
            sections.append(_Section())
        else:
            sections[-1].jobs += jobs
    return sections


def _affected_job(scenario: Scenario, sections: list[_Section], rng: Random) -> Job | None:
    """A random job that the build's scenario affects, or None if there is no such job."""
    if scenario in _UNAFFECTED:
        return None
    jobs: list[Job] = []
    for section in sections:
        jobs += [
            job for job in section.jobs if job.kind == "script" and _can_be_affected(job, scenario)
        ]
        # Jobs after a block step may never run.
        if section.barrier is not None and section.barrier.kind == "manual":
            break
    return rng.choice(jobs) if jobs else None


def _condition_fails(job: Job, build: Build) -> bool:
    """Whether the job's condition is false for this build."""
    return job.step.main_only and build.change.branch != build.pipeline.blueprint.default_branch


def _matrix_cells(step: Step) -> list[tuple[int | None, dict[str, str] | None]]:
    """The parallel index and the matrix values of each job of the step."""
    if step.parallel:
        return [(number, None) for number in range(step.parallel)]
    if step.matrix:
        return [(None, cell) for cell in step.matrix]
    return [(None, None)]


def _can_be_affected(job: Job, scenario: Scenario) -> bool:
    if job.step.main_only:
        return False
    if scenario is Scenario.SOFT_FAILS:
        return job.step.soft_fail
    if scenario is Scenario.FLAKY:
        return job.step.retries > 0
    return not job.step.soft_fail
