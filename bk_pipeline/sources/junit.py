"""Reads JUnit XML, in the dialects that test runners write.

There is no standard. What is read, and from which runners it is known:

- `<testsuites>`, `<testsuite>` (nested in PHPUnit's), `<testcase>`; `<testsuite>` as the root
  (Surefire, Gradle, Mocha), and names with a namespace prefix.
- Outcomes: `<failure>`, `<error>`, `<skipped>`, `<disabled>`; without these, `status` or `result` of the case
  (GoogleTest, CTest). `<flakyFailure>` and `<flakyError>`: failed before and passed then;
  `<rerunFailure>` and `<rerunError>`: failed again (Surefire, nextest).
- `timestamp` of suites, and of cases (nextest, GoogleTest). Mocha's own reporter writes when the
  report was written, and does so as in HTTP headers.
- Local times without a zone (pytest, GoogleTest): if they do not fit into the job as UTC, the zone in
  which the first one fits is taken, and the times are marked as guessed.

Output of tests and properties are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bk_pipeline.sources.model import JobTimes
from bk_pipeline.sources.result_tree import ResultTree
from bk_pipeline.sources.results import (
    TOLERANCE_NS,
    Case,
    CasePolicy,
    Result,
    Tests,
    Time,
)
from bk_pipeline.sources.streams import Unreadable, blocks
from bk_pipeline.sources.texts import clean_message, clean_name, without_colors
from bk_pipeline.sources.timestamps import (
    SECOND_NS,
    Timestamp,
    is_rfc_date,
    parse_duration_ns,
    parse_timestamp,
)
from bk_pipeline.sources.xml import Elements

LIMIT_BYTES = 4 << 30
_TEXT_LIMIT = 16_384  # of a failure's text, in characters

# What an element is taken for; others are skipped, with what is in them.
_SUITES, _SUITE, _CASE, _OUTCOME, _OTHER = range(5)
_KINDS = {"testsuites": _SUITES, "testrun": _SUITES, "testsuite": _SUITE, "testcase": _CASE}
_OUTCOMES: dict[str, Result] = {
    "failure": "failed",
    "error": "error",
    "skipped": "skipped",
    "disabled": "skipped",
    "ignored": "skipped",
}
_EARLIER = frozenset({"flakyFailure", "flakyError", "rerunFailure", "rerunError"})
_BY_STATUS: dict[str, Result] = {
    "failed": "failed",
    "fail": "failed",
    "failure": "failed",
    "error": "error",
    "skipped": "skipped",
    "notrun": "skipped",
    "disabled": "skipped",
    "suppressed": "skipped",
    "ignored": "skipped",
    "pending": "skipped",
}
_RANK: dict[Result, int] = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}
# Messages that say no more than that a test failed; the text, or nothing, says why.
_SAYS_NOTHING = re.compile(
    r"(?i)(?:(?:the )?(?:test )?(?:failed|failure|error)|null|(?:exited with )?(?:error|exit) (?:code|status) \d+)?"
    r"[.!:]?"
)
# Lines of a text that say which test ran, before those that say why it failed.
_PREAMBLES = ("=== ", "--- FAIL", "Traceback (most recent call last)", "Stack:", "Error:\n")

_HOUR_NS = 3_600 * SECOND_NS
# Whole hours come first: most zones differ from UTC by these.
_ZONES_NS = sorted(
    (quarters * _HOUR_NS // 4 for quarters in range(-14 * 4, 12 * 4 + 1)),
    key=lambda shift: (shift % _HOUR_NS != 0, abs(shift)),
)


def read_junit(
    chunks: Iterable[bytes],
    job: JobTimes,
    *,
    path: str,
    cases: CasePolicy,
    artifact_id: str | None = None,
    text: bool = True,
) -> Tests:
    """Read a JUnit XML file, or one that gzip has packed.

    A file that cannot be read to its end gives what comes before, and `problem`. Memory does not
    grow with the file, but with its number of cases.

    Args:
        chunks: The file's content, split anywhere.
        job: The job that the file is an artifact of.
        path: The artifact's path.
        cases: Which cases become spans.
        artifact_id: The artifact's id, by which spans are identified. A job may upload two files of
            the same path, so leave it out only if there is none.
        text: Whether names, messages and signatures may leave the file.
    """
    tree = ResultTree(job, cases, source=artifact_id or path, path=path)
    reader = _Reader(tree, job)
    try:
        reader.elements.read(blocks(chunks, limit_bytes=LIMIT_BYTES))
    except Unreadable as error:
        return tree.finish(str(error), text=text)
    return tree.finish(text=text)


class _Reader:
    """Hands suites and cases over to a tree, as their elements begin and end."""

    def __init__(self, tree: ResultTree, job: JobTimes) -> None:
        self.elements = Elements(self._start, self._end)
        self._tree = tree
        self._job = job
        self._zone_ns: int | None = None  # what is added to local times to make them UTC
        self._open: list[int] = []
        self._case: Case | None = None
        self._message: tuple[str, str] | None = None
        self._text: list[str] = []
        self._text_length = 0

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        kind = _KINDS.get(name)
        if kind is None and ":" in name:
            name = name.rpartition(":")[2]
            kind = _KINDS.get(name)
        if self._case is not None:
            kind = self._start_outcome(name, attributes)
        elif kind is None:
            kind = _OTHER
        if not self._open and kind not in {_SUITES, _SUITE}:
            shown = name if name.isalnum() and len(name) < 40 else "another element"  # noqa: PLR2004
            raise Unreadable(f"it is not JUnit XML: its root is {shown}, not testsuites")
        self._open.append(kind)
        if kind == _CASE:
            self._start_case(attributes)
        elif kind in {_SUITES, _SUITE}:
            self._start_suite(kind, attributes)

    def _end(self) -> None:
        kind = self._open.pop()
        if kind == _CASE:
            self._end_case()
        elif kind == _OUTCOME:
            self.elements.set_text(None)
        elif kind != _OTHER:
            self._tree.close_suite()

    def _start_suite(self, kind: int, attributes: dict[str, str]) -> None:
        get = attributes.get
        length_ns = self._duration_ns(attributes)
        self._tree.open_suite(
            clean_name(get("name") or get("package") or ""),
            time=self._time(get("timestamp"), length_ns),
            length_ns=length_ns,
            file=clean_name(get("file") or get("filepath") or ""),
            span=kind == _SUITE,
        )

    def _start_case(self, attributes: dict[str, str]) -> None:
        get = attributes.get
        length_ns = self._duration_ns(attributes)
        status = _BY_STATUS.get((get("status") or "").lower())
        result = status or _BY_STATUS.get((get("result") or "").lower())
        self._case = Case(
            clean_name(get("name") or ""),
            clean_name(get("classname") or get("class") or ""),
            clean_name(get("file") or ""),
            result or "passed",
            self._time(get("timestamp"), length_ns),
            length_ns,
        )
        self._message = None

    def _start_outcome(self, name: str, attributes: dict[str, str]) -> int:
        """Take an element in a case for what it says of the case's result."""
        case = self._case
        if case is None or self._open[-1] != _CASE:
            return _OTHER
        if name in _EARLIER:
            case.failed_before += 1
            return self._start_message(attributes)
        result = _OUTCOMES.get(name)
        if result is None:
            return _OTHER
        if _RANK[result] >= _RANK[case.result]:
            case.result = result
        return _OTHER if result == "skipped" else self._start_message(attributes)

    def _start_message(self, attributes: dict[str, str]) -> int:
        if self._message is None:  # else there is one already
            self._message = (attributes.get("message") or "", attributes.get("type") or "")
            self._text, self._text_length = [], 0
            self.elements.set_text(self._add_text)
        return _OUTCOME

    def _add_text(self, text: str) -> None:
        if self._text_length < _TEXT_LIMIT:
            self._text.append(text[: _TEXT_LIMIT - self._text_length])
            self._text_length += len(text)

    def _end_case(self) -> None:
        case, self._case = self._case, None
        if case is None:
            return
        if self._message is not None:
            message = _failure_message(*self._message, "".join(self._text))
            # Else all tests that say no more than this would share a signature.
            if _SAYS_NOTHING.fullmatch(message):
                message = f"{message or 'failed'}: {case.name}"
            case.message = clean_message(message)
            self._text = []
        self._tree.add(case)

    def _duration_ns(self, attributes: dict[str, str]) -> int | None:
        text = attributes.get("time") or attributes.get("duration")
        if not text:
            return None
        return parse_duration_ns(text, longest_ns=self._job.end_ns - self._job.start_ns)

    def _time(self, text: str | None, length_ns: int | None) -> Time | None:
        if not text:
            return None
        found = parse_timestamp(text)
        if found is None:
            return None
        if is_rfc_date(text):
            return Time(found.at_ns, ends=True)
        if found.zoned or self._fits(found.at_ns, length_ns):
            return Time(found.at_ns)
        return self._time_in_some_zone(found, length_ns)

    def _time_in_some_zone(self, found: Timestamp, length_ns: int | None) -> Time | None:
        if self._zone_ns is None:
            fitting = (zone for zone in _ZONES_NS if self._fits(found.at_ns + zone, length_ns))
            self._zone_ns = next(fitting, None)
        if self._zone_ns is None:
            return None
        return Time(found.at_ns + self._zone_ns, guessed=True)

    def _fits(self, at_ns: int, length_ns: int | None) -> bool:
        job = self._job
        length = min(length_ns or 0, job.end_ns - job.start_ns)
        return job.start_ns - TOLERANCE_NS <= at_ns <= job.end_ns - length + TOLERANCE_NS


def _failure_message(message: str, type_: str, text: str) -> str:
    """Return what says most plainly why a test failed: the message, the text's first line, the type."""
    plain = without_colors(message).strip()
    if not _SAYS_NOTHING.fullmatch(plain):
        return plain
    for line in without_colors(text).splitlines():
        if line.strip() and not line.strip().startswith(_PREAMBLES):
            return line.strip()
    return plain or type_.strip()
