"""Reads the tests of a build from Buildkite Test Engine.

`GET /v2/analytics/organizations/{org}/builds/{build.id}/tests` lists each test once, with what its
executions in the build add up to: how many there were by result, and the average, sum, least and
greatest duration. Not told, and so guessed: when they ran, in which order (a test that passed and
failed counts as passed after it had failed), and in which jobs. The query parameter
`tags=build.job_id:<id>` limits the answer to a job.

Source: Buildkite's documentation, "Build tests API", in August 2026.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bk_pipeline.sources.model import JobTimes
from bk_pipeline.sources.result_tree import ResultTree
from bk_pipeline.sources.results import Case, CasePolicy, Result, Tests
from bk_pipeline.sources.texts import clean_name
from bk_pipeline.sources.timestamps import SECOND_NS

SOURCE = "test-engine"
_SUITE = re.compile(r"/suites/([^/?#]+)/tests/")
_MOST_S = 366 * 86_400
_MOST_EXECUTIONS = 1_000_000_000


def tests_from_engine(records: Iterable[object], ran: JobTimes, *, cases: CasePolicy) -> Tests:
    """Return the tests that Test Engine lists as suites and cases, with guessed times.

    A case is as long as its average execution. What a record lacks is left out; one that is no JSON
    object, or has neither name nor id, is skipped.

    Args:
        records: The elements of all pages, decoded.
        ran: When the job ran, or the build: the spans lie in that time.
        cases: Which cases become spans.
    """
    suites: dict[str, dict[str, Case]] = {}
    for record in records:
        if isinstance(record, Mapping):
            # Pages move while they are read: a test may come twice.
            key = _text(record.get("id")) or _text(record.get("name"))
            if key:
                suites.setdefault(_suite(record), {}).setdefault(key, _case(key, record))
    tree = ResultTree(ran, cases, source=SOURCE)
    for suite, by_key in sorted(suites.items()):
        tree.open_suite(clean_name(suite), key=suite)
        for _, case in sorted(by_key.items()):
            tree.add(case)
        tree.close_suite()
    return tree.finish()


def _case(key: str, record: Mapping[str, Any]) -> Case:
    passed, failed, skipped = _executions(record.get("executions_count_by_result"))
    result: Result = "passed"
    if failed and not passed:
        result = "failed"
    elif skipped and not passed:
        result = "skipped"
    return Case(
        clean_name(_text(record.get("name")) or key),
        clean_name(_text(record.get("scope"))),
        clean_name(_text(record.get("file_name")) or _text(record.get("location"))),
        result,
        length_ns=_length_ns(record.get("duration_avg")),
        failed_before=failed if passed else max(failed - 1, 0),
        key=key,
    )


def _executions(counts: object) -> tuple[int, int, int]:
    found = counts if isinstance(counts, Mapping) else {}
    passed, failed, skipped = (_count(found.get(key)) for key in ("passed", "failed", "skipped"))
    return passed, failed, skipped


def _count(value: object) -> int:
    usable = type(value) is int and 0 <= value <= _MOST_EXECUTIONS
    return value if usable and isinstance(value, int) else 0


def _length_ns(seconds: object) -> int | None:
    if type(seconds) not in {int, float} or not isinstance(seconds, int | float):
        return None
    return round(seconds * SECOND_NS) if 0 <= seconds <= _MOST_S else None


def _suite(record: Mapping[str, Any]) -> str:
    """Return the suite's slug, which only the URLs of a test have."""
    for key in ("url", "web_url"):
        found = _SUITE.search(_text(record.get(key)))
        if found:
            return found[1]
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
