"""Test results as spans: suites below the job, cases below their suite.

`ResultTree` takes suites and cases in the order in which a source has them, finds times for those
that have none, and decides by policy which cases become spans. The rules:

- A time of the source counts if it fits into the job, give or take `TOLERANCE_NS`.
- What has none is laid end to end from the start of what it is in. At the end of that, it begins
  again at the start: tests that run at once take less time than their sum. A length is kept where
  it fits into the job, and else truncated to the job's.
- A suite contains its cases.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from bk_pipeline.sources.model import DetailSpan, JobTimes
from bk_pipeline.sources.results import (
    RESULTS,
    TOLERANCE_NS,
    Case,
    CasePolicy,
    CaseResult,
    Result,
    Tests,
    Time,
)
from bk_pipeline.sources.signature import signature_of
from bk_pipeline.sources.texts import MESSAGE_LIMIT, masked_texts, without_texts
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.spans.secrets import mask_log_secrets
from bk_pipeline.text import shortened

FAILED = "failed"  # `error.type`
MESSAGE = "bk_pipeline.failure.message"
LEFT_OUT = -1  # the index of a suite that did not become a span
_STATUS = {
    "passed": SpanStatus.OK,
    "failed": SpanStatus.ERROR,
    "error": SpanStatus.ERROR,
    "skipped": SpanStatus.UNSET,
}


class _Suite(msgspec.Struct, gc=False):
    """A suite that is open, or the job.

    `index` is that of the span that cases get as a parent: the suite's own; that of the suite
    around one that only groups; None for the job; or `LEFT_OUT`. `anchored` means that the start is
    the source's, `exact` that start and end are. The next case without a time is laid at
    `cursor_ns`, and before `window_ns`.
    """

    name: str
    identity: str
    index: int | None
    start_ns: int
    end_ns: int
    window_ns: int
    cursor_ns: int
    file: str = ""
    anchored: bool = False
    exact: bool = False
    suites: int = 0
    cases: int = 0
    inexact_children: int = 0
    first_ns: int | None = None
    last_ns: int = 0
    counts: dict[Result, int] = msgspec.field(default_factory=lambda: dict.fromkeys(RESULTS, 0))


class ResultTree:
    """Builds the spans of one source. Suites are opened and closed like parentheses."""

    def __init__(
        self, job: JobTimes, policy: CasePolicy, *, source: str, path: str | None = None
    ) -> None:
        """Begin with the job.

        Args:
            job: When the job ran.
            policy: Which cases become spans.
            source: What identifies the source in the job.
            path: The artifact's path, if it is one.
        """
        self._job = job
        self._source = source
        self._path = path
        self._policy = policy
        self._spans: list[DetailSpan | None] = []
        self._passed: list[int] = []  # spans of cases that did not fail
        self._kept = 0
        self._tests = Tests(spans=[], results=[], cases={})
        start_ns, end_ns = job.start_ns, job.end_ns
        self._open = [_Suite("", "", None, start_ns, end_ns, end_ns, start_ns)]

    def open_suite(
        self,
        name: str,
        *,
        time: Time | None = None,
        length_ns: int | None = None,
        file: str = "",
        key: str | None = None,
        span: bool = True,
    ) -> None:
        """Open a suite in the one that is open; without a span if it only groups suites.

        `key` identifies it in what it is in; None: its place there does.
        """
        parent = self._open[-1]
        identity = str(parent.suites) if key is None else key
        identity = f"{parent.identity}.{identity}" if parent.identity else identity
        parent.suites += 1
        index = parent.index
        self._tests.suites += span
        if span and self._kept < self._policy.max_spans and index != LEFT_OUT:
            index = len(self._spans)
            self._kept += 1
            self._spans.append(
                DetailSpan(SpanKind.SUITE, (self._source, identity), parent.index, 0, 0)
            )
        elif span:
            self._tests.spans_left_out += 1
            index = LEFT_OUT
        if parent.cursor_ns >= parent.window_ns:
            parent.cursor_ns = parent.start_ns
        start_ns, end_ns, anchored = self._placed(parent, time, length_ns)
        # Some files have 0 for a length that was not measured.
        window_ns = end_ns if length_ns else parent.window_ns
        suite = _Suite(name, identity, index, start_ns, end_ns, window_ns, start_ns)
        suite.anchored, suite.exact = anchored, anchored and end_ns - start_ns == length_ns
        suite.file = file or parent.file
        self._open.append(suite)

    def add(self, case: Case) -> None:
        """Add a case to the suite that is open."""
        suite = self._open[-1]
        number = suite.cases
        suite.cases += 1
        suite.counts[case.result] += 1
        start_ns, end_ns, anchored = self._placed(suite, case.time, case.length_ns)
        exact = anchored and end_ns - start_ns == case.length_ns
        _extend(suite, start_ns, end_ns, exact=exact)
        if len(self._tests.results) < self._policy.max_results:
            self._tests.results.append(
                CaseResult(
                    suite.name,
                    case.class_name,
                    case.name,
                    case.result,
                    case.length_ns,
                    case.failed_before,
                )
            )
        else:
            self._tests.results_left_out += 1
        if self._is_chosen(case):
            self._add_span(suite, number, case, start_ns, end_ns, exact=exact)

    def close_suite(self, *, complete: bool = True) -> None:
        """Close the suite that is open; `complete` is False if the source ended in it."""
        suite = self._open.pop()
        parent = self._open[-1]
        has_children = suite.first_ns is not None
        children_exact = has_children and not suite.inexact_children
        if suite.first_ns is not None:
            if not suite.anchored and children_exact:
                suite.start_ns, suite.end_ns = suite.first_ns, suite.last_ns
            suite.start_ns = min(suite.start_ns, suite.first_ns)
            suite.end_ns = max(suite.end_ns, suite.last_ns)
        exact = suite.exact or children_exact
        _extend(parent, suite.start_ns, suite.end_ns, exact=exact)
        for result, count in suite.counts.items():
            parent.counts[result] += count
        if suite.index not in {None, LEFT_OUT, parent.index}:
            self._finish(suite, exact=exact, complete=complete)

    def finish(self, problem: str | None = None, *, text: bool = True) -> Tests:
        """Close what is open and return the results; without `text`, none that the source has."""
        while len(self._open) > 1:
            self.close_suite(complete=problem is None)
        tests = self._tests
        tests.cases = {result: count for result, count in self._open[0].counts.items() if count}
        tests.problem = problem
        tests.spans = _compact(self._spans)
        if text:
            _finish_texts(tests)
        else:
            without_texts(tests.spans)
            tests.results_left_out += len(tests.results)
            tests.results = []
        return tests

    def _is_chosen(self, case: Case) -> bool:
        which = self._policy.which
        if which in {"all", "none"}:
            return which == "all"
        if case.result in {"failed", "error"} or case.failed_before:
            return True
        length_ns = case.length_ns or 0
        return which == "slow" and length_ns > self._policy.slow_s * 1e9

    def _add_span(
        self, suite: _Suite, number: int, case: Case, start_ns: int, end_ns: int, *, exact: bool
    ) -> None:
        failed = case.result in {"failed", "error"}
        full = self._kept >= self._policy.max_spans
        self._tests.spans_left_out += full or suite.index == LEFT_OUT
        if suite.index == LEFT_OUT or (full and not (failed and self._passed)):
            return
        if full:
            self._spans[self._passed.pop()] = None
            self._kept -= 1
        self._kept += 1
        if not failed:
            self._passed.append(len(self._spans))
        self._spans.append(
            DetailSpan(
                SpanKind.CASE,
                (self._source, suite.identity, str(number) if case.key is None else case.key),
                suite.index,
                start_ns,
                end_ns,
                status=_STATUS[case.result],
                error_type=FAILED if failed else None,
                guessed=not exact,
                attributes=_case_attributes(suite, case),
            )
        )

    def _finish(self, suite: _Suite, *, exact: bool, complete: bool) -> None:
        span = self._spans[suite.index or 0]
        if span is None:
            return
        span.start_ns, span.end_ns, span.guessed = suite.start_ns, suite.end_ns, not exact
        counts = suite.counts
        failed = counts["failed"] + counts["error"] > 0
        span.attributes = {
            "bk_pipeline.test.cases": sum(counts.values()),
            "bk_pipeline.test.failures": counts["failed"],
            "bk_pipeline.test.errors": counts["error"],
            "bk_pipeline.test.skipped": counts["skipped"],
        }
        if self._path is not None:
            span.attributes["bk_pipeline.artifact.path"] = self._path
        if suite.name:
            span.attributes["test.suite.name"] = suite.name
        if failed:
            span.status, span.error_type = SpanStatus.ERROR, FAILED
            span.attributes["test.suite.run.status"] = "failure"
        elif complete and counts["skipped"] and not counts["passed"]:
            span.attributes["test.suite.run.status"] = "skipped"
        elif complete:
            span.status = SpanStatus.OK
            span.attributes["test.suite.run.status"] = "success"

    def _placed(
        self, suite: _Suite, time: Time | None, length_ns: int | None
    ) -> tuple[int, int, bool]:
        """Return start and end within the job, and whether the start is the source's."""
        job = self._job
        length = min(length_ns or 0, job.end_ns - job.start_ns)
        if time is not None:
            start_ns = time.at_ns - length if time.ends else time.at_ns
            moved_ns = max(job.start_ns, min(start_ns, job.end_ns - length))
            if abs(moved_ns - start_ns) <= TOLERANCE_NS:
                return moved_ns, moved_ns + length, moved_ns == start_ns and not time.guessed
        start_ns = suite.cursor_ns
        if start_ns + length > suite.window_ns:
            start_ns = suite.start_ns
        start_ns = max(job.start_ns, min(start_ns, job.end_ns - length))
        return start_ns, start_ns + length, False


def _extend(suite: _Suite, start_ns: int, end_ns: int, *, exact: bool) -> None:
    """Let `suite` contain a child with these times, and lay the next one after it."""
    suite.first_ns = start_ns if suite.first_ns is None else min(suite.first_ns, start_ns)
    suite.last_ns = max(suite.last_ns, end_ns)
    suite.cursor_ns = end_ns
    suite.inexact_children += not exact


def _case_attributes(suite: _Suite, case: Case) -> dict[str, str | int | float | bool]:
    found = {
        "test.case.name": case.name,
        "test.suite.name": suite.name,
        "bk_pipeline.test.class": case.class_name,
        "bk_pipeline.test.file": case.file or suite.file,
        MESSAGE: case.message,
    }
    attributes: dict[str, str | int | float | bool] = {
        name: value for name, value in found.items() if value
    }
    attributes["bk_pipeline.test.result"] = case.result
    if case.result != "skipped":
        attributes["test.case.result.status"] = "pass" if case.result == "passed" else "fail"
    if case.failed_before:
        attributes["bk_pipeline.test.failed_before"] = case.failed_before
    return attributes


def _compact(spans: list[DetailSpan | None]) -> list[DetailSpan]:
    """Remove what was left out; only cases are, which have no children."""
    if None not in spans:
        return [span for span in spans if span is not None]
    places: dict[int, int] = {}
    kept: list[DetailSpan] = []
    for index, span in enumerate(spans):
        if span is not None:
            places[index] = len(kept)
            span.parent = None if span.parent is None else places[span.parent]
            kept.append(span)
    return kept


_NAMES = (
    "test.suite.name",
    "test.case.name",
    "bk_pipeline.test.class",
    "bk_pipeline.test.file",
)


def _finish_texts(tests: Tests) -> None:
    """Add signatures, mask secrets in all texts that came from the source, truncate messages."""
    texts: set[str] = set()
    for span in tests.spans:
        texts.update(str(span.attributes[name]) for name in _NAMES if name in span.attributes)
        if MESSAGE in span.attributes:
            message, signature = _message(str(span.attributes[MESSAGE]))
            span.attributes[MESSAGE] = message
            span.attributes["bk_pipeline.failure.signature"] = signature
    for result in tests.results:
        texts.update((result.suite, result.class_name, result.name))
    masks = masked_texts(texts)
    if not masks:
        return
    for span in tests.spans:
        for name in _NAMES:
            value = str(span.attributes.get(name, ""))
            if value in masks:
                span.attributes[name] = masks[value]
    for result in tests.results:
        result.suite = masks.get(result.suite, result.suite)
        result.class_name = masks.get(result.class_name, result.class_name)
        result.name = masks.get(result.name, result.name)


@lru_cache(maxsize=1_000)
def _message(message: str) -> tuple[str, str]:
    """Return a failure message masked and truncated, and its signature."""
    return shortened(mask_log_secrets(message), MESSAGE_LIMIT), signature_of(message)
