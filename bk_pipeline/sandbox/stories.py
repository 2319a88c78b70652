"""What happened inside a job: its tool, its tests, and why it failed.

A story depends only on the job's own API object, so that log, artifacts and test results of a job
agree with it and with each other, for generated and for added builds. Nothing is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from bk_pipeline.sandbox.times import parse_time
from bk_pipeline.sandbox.tools import INFRASTRUCTURE, Tool, filled, tool_of

_COMMAND_NOT_FOUND = 127
# How long a job takes that an added build shows as running.
_UNFINISHED_MS = 600_000
_VERBS = ("adds", "rejects", "renders", "keeps", "counts", "removes")
_THINGS = ("an empty list", "two items", "a wrong price", "the last page", "a guest", "a timeout")
_MESSAGES = (
    "expected 200, got 503",
    "expected 3 items, got 2",
    "Timed out after 5000 ms waiting for #total",
    "assert 19.99 == 20.0",
)
# One case of each suite fails now and then, and passes when it is repeated.
_FLAKY_POSITION = 4
_TEST_SHARE, _INFRASTRUCTURE_SHARE = 0.7, 0.5
_RERUN_SHARE, _SKIPPED_SHARE = 0.08, 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """One test. `reruns` is how often it failed before it passed in the same job.

    `begin_ms` and `end_ms` are milliseconds since the start of the tests.
    """

    file: str
    group: str
    name: str
    result: str
    begin_ms: int
    end_ms: int
    message: str | None = None
    reruns: int = 0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ms - self.begin_ms) / 1000


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a job failed: the kind of failure, and the lines at the end of its log."""

    kind: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """What happened inside a job that has started.

    Attributes:
        job: The API's job object.
        start_ms: When it started.
        tests_ms: When its tests, or its tool, began.
        work_end_ms: When these ended.
        end_ms: When it ended.
        cases: Its tests, in order of time.
    """

    job: dict[str, Any]
    tool: Tool
    start_ms: int
    tests_ms: int
    work_end_ms: int
    end_ms: int
    cause: Cause | None
    cases: tuple[Case, ...]


def story_of(job: dict[str, Any]) -> Story | None:
    """The story of a job, or None if it has none: it is not a script, or has not started.

    Args:
        job: The API's job object as of the job's end. An unfinished one gets an arbitrary end.
    """
    if job.get("type") != "script" or not job.get("started_at"):
        return None
    rng = Random(f"story/{job['id']}")
    start_ms = parse_time(job["started_at"])
    finished = job.get("finished_at")
    end_ms = max(parse_time(finished) if finished else start_ms + _UNFINISHED_MS, start_ms)
    length_ms = end_ms - start_ms
    tests_ms = start_ms + min(int(length_ms * 0.15), 4_000 + rng.randrange(6_000))
    work_end_ms = max(end_ms - min(int(length_ms * 0.05), 1_500), tests_ms)
    tool = tool_of(job.get("command") or "")
    tests_fail = _tests_fail(job, tool, rng)
    cause = None if tests_fail else _interruption(job) or _failure(job, tool, rng)
    # If something else went wrong, the tool did not get as far as its tests.
    has_cases = tool.suites and cause is None and finished
    cases = _cases(job, tool, rng, work_end_ms - tests_ms) if has_cases else ()
    if tests_fail:
        cases = _with_failures(cases, job, rng)
        cause = Cause("test", tuple(_test_summary(tool, cases)))
    return Story(job, tool, start_ms, tests_ms, work_end_ms, end_ms, cause, cases)


def _tests_fail(job: dict[str, Any], tool: Tool, rng: Random) -> bool:
    """Whether the job failed because of tests."""
    ordinary = job.get("state") == "failed" and job.get("exit_status") in (1, 2)
    return rng.random() < _TEST_SHARE and ordinary and bool(tool.suites)


def _interruption(job: dict[str, Any]) -> Cause | None:
    """The cause of a failure that came from outside; None if there was none."""
    if job.get("state") == "timed_out":
        lines = ("# Received cancellation signal, interrupting", "signal: terminated")
        return Cause("timeout", lines)
    if job.get("signal_reason") == "agent_stop":
        lines = ("# The agent is stopping: received SIGTERM", "# Canceling the job")
        return Cause("infrastructure", lines)
    if job.get("signal_reason") == "cancel":
        return Cause("unknown", ("# Received cancellation signal, interrupting",))
    if job.get("state") == "failed" and job.get("exit_status") == -1:
        return Cause("infrastructure", ())  # the agent was lost, and the log just ends
    return None


def _failure(job: dict[str, Any], tool: Tool, rng: Random) -> Cause | None:
    """The cause of a failure of the command itself, if not of a test; None if it passed."""
    if job.get("state") != "failed":
        return None
    if job.get("exit_status") == _COMMAND_NOT_FOUND:
        word = (job.get("command") or "run").split()[0]
        return Cause("build", (f"/bin/bash: line 2: {word}: command not found",))
    if rng.random() < _INFRASTRUCTURE_SHARE:
        return Cause("infrastructure", tuple(filled(rng.choice(INFRASTRUCTURE), rng)))
    return Cause(tool.kind, tuple(filled(tool.errors, rng)))


def _cases(job: dict[str, Any], tool: Tool, rng: Random, length_ms: int) -> tuple[Case, ...]:
    """The tests of a job that passed: a shard of its step's, in order, filling `length_ms`."""
    total, index = job.get("parallel_group_total") or 1, job.get("parallel_group_index") or 0
    named = [
        (file, group, f"{verb} {_THINGS[(number + place) % len(_THINGS)]}", number)
        for place, (file, group) in enumerate(tool.suites)
        if place % total == index % len(tool.suites)
        for number, verb in enumerate(_VERBS)
    ]
    weights = [0.2 + rng.random() * rng.random() * 5 for _ in named]
    scale, began_ms = length_ms / (sum(weights) or 1.0), 0.0
    cases = []
    for (file, group, name, number), weight in zip(named, weights, strict=True):
        end_ms = began_ms + weight * scale
        case = Case(file, group, name, "passed", int(began_ms), int(end_ms))
        if number == _FLAKY_POSITION and rng.random() < _RERUN_SHARE:
            case = replace(case, reruns=1, message=_MESSAGES[0])
        elif rng.random() < _SKIPPED_SHARE:
            case = replace(case, result="skipped")
        cases.append(case)
        began_ms = end_ms
    return tuple(cases)


def _with_failures(cases: tuple[Case, ...], job: dict[str, Any], rng: Random) -> tuple[Case, ...]:
    """The cases, some of which fail: a flaky one if an automatic retry followed, else others."""
    flaky = job.get("retry_type") == "automatic"
    of_kind = [
        place for place in range(len(cases)) if (place % len(_VERBS) == _FLAKY_POSITION) == flaky
    ]
    count = 1 if flaky else rng.randint(1, 3)
    failed = set(rng.sample(of_kind, min(count, len(of_kind))))
    return tuple(
        replace(case, result="failed", reruns=0, message=_MESSAGES[len(case.name) % len(_MESSAGES)])
        if place in failed
        else case
        for place, case in enumerate(cases)
    )


def _test_summary(tool: Tool, cases: tuple[Case, ...]) -> list[str]:
    """How the tool reports the tests that failed."""
    failed = [case for case in cases if case.result == "failed"]
    lines: list[str] = []
    for case in failed:
        lines += _report(tool.name, case)
    passed = len(cases) - len(failed)
    match tool.name:
        case "jest":
            lines += [f"Tests:       {len(failed)} failed, {passed} passed, {len(cases)} total"]
        case "pytest":
            lines += ["=========================== short test summary info ===================="]
            lines += [f"FAILED {one.file}::{_slug(one.name)} - {one.message}" for one in failed]
            lines += [f"=================== {len(failed)} failed, {passed} passed in 9.87s ======"]
        case "go":
            lines += ["FAIL", "make: *** [Makefile:18: test] Error 1"]
        case "xcodebuild":
            lines += ["Failing tests:", *(f"\t{one.group}.{_slug(one.name)}()" for one in failed)]
            lines += ["** TEST FAILED **"]
        case _:
            lines += [f"  {len(failed)} failed", f"  {passed} passed"]
    return lines


def _report(tool: str, case: Case) -> list[str]:
    """The report of one failed test in the style of its tool."""
    match tool:
        case "jest":
            return [
                f"FAIL {case.file}",
                f"  \u25cf {case.group} \u203a {case.name}",
                "",
                f"    {case.message}",
            ]
        case "pytest":
            return [
                f"_________________________ {_slug(case.name)} _________________________",
                f">       {case.message}",
                f"E       AssertionError: {case.message}",
                f"{case.file}:{len(case.name)}: AssertionError",
            ]
        case "go":
            return [
                f"--- FAIL: {_slug(case.name).title()} ({case.seconds:.2f}s)",
                f"    {case.file.rpartition('/')[2]}:{len(case.name)}: {case.message}",
                f"FAIL\t{case.group}\t{case.seconds:.3f}s",
            ]
        case "xcodebuild":
            return [f"{case.file}:{len(case.name)}: error: {_slug(case.name)} : {case.message}"]
        case _:
            return [f"  1) {case.file} \u203a {case.name}", f"    Error: {case.message}"]


def _slug(name: str) -> str:
    return "test_" + name.replace(" ", "_")
