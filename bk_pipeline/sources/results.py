"""Test results, as the modules that read them have in common."""

from __future__ import annotations

from typing import Literal

import msgspec

from bk_pipeline.sources.model import DetailSpan

Result = Literal["passed", "failed", "error", "skipped"]
RESULTS: tuple[Result, ...] = ("passed", "failed", "error", "skipped")

# Clocks of agents differ from Buildkite's by this much, and some files have whole seconds.
TOLERANCE_NS = 5_000_000_000


class CasePolicy(msgspec.Struct, frozen=True):
    """Which test cases become spans.

    Attributes:
        which: `failed`: those that failed, at last or before a retry; `slow`: these, and those
            longer than `slow_s`; `all`; `none`.
        slow_s: The length in seconds from which a case is slow.
        max_spans: The most spans of a source, suites included. Failed cases take precedence.
        max_results: The most `results` of a source. They take memory, so there are none if they are
            not asked for.
    """

    which: Literal["failed", "slow", "all", "none"] = "failed"
    slow_s: float = 10.0
    max_spans: int = 10_000
    max_results: int = 0


class CaseResult(msgspec.Struct, gc=False):
    """The result of a case, whether it became a span or not. Texts are masked and truncated.

    Attributes:
        suite: The suite's name; empty if it has none.
        class_name: The class name; empty if it has none.
        name: The case's name; parametrized and repeated cases may share it.
        result: Its last result.
        duration_ns: How long it took; None if the source does not tell.
        failed_before: How often it failed before its last result.
    """

    suite: str
    class_name: str
    name: str
    result: Result
    duration_ns: int | None = None
    failed_before: int = 0


class Tests(msgspec.Struct):
    """The test results of a source.

    Attributes:
        spans: Suites and cases; a parent comes before what it contains.
        results: Each case in the source's order, up to `CasePolicy.max_results`.
        cases: How many cases there are, by result.
        suites: How many suites there are.
        spans_left_out: How many suites and cases did not become spans because there were more than
            `max_spans`; what the policy does not choose is not counted.
        results_left_out: How many cases are not in `results`.
        problem: Why the source was not read to its end, as a part of a sentence; None if it was.
    """

    spans: list[DetailSpan] = []
    results: list[CaseResult] = []
    cases: dict[Result, int] = {}
    suites: int = 0
    spans_left_out: int = 0
    results_left_out: int = 0
    problem: str | None = None


class Time(msgspec.Struct, frozen=True, gc=False):
    """When something began, in Unix nanoseconds, by the source.

    `ends`: it is when it ended. `guessed`: the source leaves open which zone's time it is.
    """

    at_ns: int
    ends: bool = False
    guessed: bool = False


class Case(msgspec.Struct, gc=False):
    """A test case as a source has it. Texts are on one line and not masked yet.

    `key` identifies it in its suite; None: its place there does.
    """

    name: str
    class_name: str = ""
    file: str = ""
    result: Result = "passed"
    time: Time | None = None
    length_ns: int | None = None
    failed_before: int = 0
    message: str = ""
    key: str | None = None
