"""The artifacts of a job: test results, profiles and built files, made when they are requested.

Test results are JUnit XML whose cases are those of the job's story. Profiles are Chrome traces as
Bazel writes them: times are microseconds since the start of the profile.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from bk_pipeline.sandbox.credentials import named_uuid
from bk_pipeline.sandbox.stories import Case, Story, story_of
from bk_pipeline.sandbox.times import format_time

# Of so many artifacts, one has expired, and one was not uploaded completely.
_EXPIRED, _BROKEN = 17, 41
_PROFILED = {"go": "out/command.profile.gz", "webpack": "out/build-profile.json"}
_ACTIONS = ("CppCompile", "GoCompilePkg", "Javac", "TestRunner", "Genrule")
_THREADS = ("Main Thread", "skyframe-evaluator-0", "skyframe-evaluator-1", "Critical Path")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a job uploaded. `state` is finished, expired or error.

    Attributes:
        content: Makes the file's bytes.
    """

    id: str
    path: str
    mime_type: str
    state: str
    content: Callable[[], bytes]

    def payload(self, job_url: str, job_id: str) -> dict[str, Any]:
        """The API's artifact object, below the job's URL."""
        content = self.content()
        url = f"{job_url}/artifacts/{self.id}"
        dirname, _, filename = self.path.rpartition("/")
        return {
            "id": self.id,
            "job_id": job_id,
            "url": url,
            "download_url": f"{url}/download",
            "state": self.state,
            "path": self.path,
            "dirname": dirname or ".",
            "filename": filename,
            "mime_type": self.mime_type,
            "file_size": len(content),
            "glob_path": None,
            "original_path": None,
            "sha1sum": hashlib.sha1(content).hexdigest(),  # noqa: S324  # as the API
        }


def artifacts_of(job: dict[str, Any], at_ms: int) -> list[Artifact]:
    """The artifacts that a job had uploaded at a time, in the order of upload.

    Jobs upload at their end; those whose agent was lost, or that were canceled, do not.

    Args:
        job: The API's job object as of the job's end.
        at_ms: Milliseconds since 1970.
    """
    story = story_of(job)
    if story is None or at_ms < story.end_ms or job.get("exit_status") in (None, -1):
        return []
    index = job.get("parallel_group_index")
    files: list[tuple[str, str, Callable[[], bytes]]] = []
    if story.cases:
        name = f"junit/{story.tool.name}{'' if index is None else f'-{index + 1}'}.xml"
        files.append((name, "application/xml", lambda: _junit(story)))
    if path := _PROFILED.get(story.tool.name):
        files.append((path, _mime_type(path), lambda: _profile(story, path)))
    if job.get("artifact_paths"):
        built = f"{job['artifact_paths'].partition('*')[0]}result.txt"
        files.append((built, "text/plain", lambda: f"built by {job['id']}\n".encode() * 40))
    return [_artifact(job["id"], *one) for one in files]


def _mime_type(path: str) -> str:
    return "application/x-gzip" if path.endswith(".gz") else "application/json"


def _artifact(job_id: str, path: str, mime_type: str, content: Callable[[], bytes]) -> Artifact:
    rng = Random(f"artifact/{job_id}/{path}")
    state = "finished"
    if rng.randrange(_EXPIRED) == 0:
        state = "expired"
    elif rng.randrange(_BROKEN) == 0:
        state = "error"
    return Artifact(named_uuid("artifact", job_id, path), path, mime_type, state, content)


def _junit(story: Story) -> bytes:
    """The tests as JUnit XML, a suite for each file. Every other file has times of the suites."""
    dated = Random(f"junit/{story.job['id']}").randrange(2)
    suites = []
    for file, found in groupby(story.cases, key=lambda case: case.file):
        cases = list(found)
        begin_ms = story.tests_ms + cases[0].begin_ms
        timestamp = f' timestamp="{format_time(begin_ms)}"' if dated else ""
        seconds = (cases[-1].end_ms - cases[0].begin_ms) / 1000
        counts = {
            "tests": len(cases),
            "failures": sum(case.result == "failed" for case in cases),
            "errors": 0,
            "skipped": sum(case.result == "skipped" for case in cases),
        }
        attributes = "".join(f' {name}="{count}"' for name, count in counts.items())
        suites.append(
            f'  <testsuite name={quoteattr(file)}{attributes} time="{seconds:.3f}"{timestamp}>\n'
            + "".join(map(_testcase, cases))
            + "  </testsuite>\n"
        )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n'
    return (head + "".join(suites) + "</testsuites>\n").encode()


def _testcase(case: Case) -> str:
    attributes = (
        f"classname={quoteattr(case.group)} name={quoteattr(case.name)} "
        f'file={quoteattr(case.file)} time="{case.seconds:.3f}"'
    )
    message = quoteattr(case.message or "")
    text = escape(f"{case.message}\n    at {case.file}:{len(case.name)}")
    inner = ""
    if case.result == "failed":
        inner = f"<failure message={message}>{text}</failure>"
    elif case.result == "skipped":
        inner = "<skipped/>"
    elif case.reruns:
        inner = f"<flakyFailure message={message}>{text}</flakyFailure>" * case.reruns
    return f"    <testcase {attributes}>{inner}</testcase>\n"


def _profile(story: Story, path: str) -> bytes:
    """A Chrome trace of the work, gzipped if `path` says so."""
    rng = Random(f"profile/{story.job['id']}")
    length_us = (story.work_end_ms - story.tests_ms) * 1000
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": name}}
        for tid, name in enumerate(_THREADS)
    ]
    for tid in range(len(_THREADS)):
        at_us = 0
        while at_us < length_us * 0.95:
            took_us = 1 + int(length_us * rng.random() * 0.1)
            action = rng.choice(_ACTIONS)
            name = f"{action} //shop/{rng.choice('abcdef')}:lib"
            whole = {"name": name, "cat": "action processing", "ph": "X", "pid": 1, "tid": tid}
            events.append({**whole, "ts": at_us, "dur": min(took_us, length_us - at_us)})
            inner = {"name": "subprocess.run", "cat": "subprocess", "ph": "X", "pid": 1, "tid": tid}
            events.append({**inner, "ts": at_us + took_us // 4, "dur": took_us // 4})
            at_us += took_us + 1 + rng.randrange(1 + length_us // 50)
    trace = {
        "otherData": {"build_id": story.job["id"], "date": format_time(story.tests_ms)},
        "traceEvents": events,
    }
    content = json.dumps(trace).encode()
    return gzip.compress(content, mtime=0) if path.endswith(".gz") else content


def test_engine_results(
    jobs: list[dict[str, Any]], at_ms: int, suite_url: str
) -> list[dict[str, Any]]:
    """Test Engine's results of a build's jobs, aggregated by test over all of their attempts.

    Args:
        jobs: The API's job objects as of the jobs' ends, with retried ones.
        at_ms: Milliseconds since 1970; later tests are left out.
        suite_url: The URL of the organization's suites.
    """
    found: dict[tuple[str, str], list[Case]] = {}
    for job in jobs:
        story = story_of(job)
        for case in story.cases if story is not None else ():
            if story is not None and story.tests_ms + case.end_ms <= at_ms:
                found.setdefault((case.group, case.name), []).append(case)
    return [_aggregated(cases, suite_url) for cases in found.values()]


def _aggregated(cases: list[Case], suite_url: str) -> dict[str, Any]:
    first, seconds = cases[0], [case.seconds for case in cases]
    results = [case.result for case in cases] + ["failed" for case in cases if case.reruns]
    counts = {name: results.count(name) for name in ("passed", "failed", "skipped")}
    ran = counts["passed"] + counts["failed"]
    if not counts["skipped"]:
        del counts["skipped"]
    identifier = named_uuid("test", first.group, first.name)
    return {
        "id": identifier,
        "url": f"{suite_url}/shop/tests/{identifier}",
        "web_url": f"{suite_url}/shop/tests/{identifier}",
        "scope": first.group,
        "name": first.name,
        "location": f"{first.file}:{len(first.name)}",
        "file_name": first.file,
        "labels": ["flaky"] if any(case.reruns for case in cases) else [],
        "reliability": round(counts["passed"] / ran, 4) if ran else None,
        "duration_avg": round(sum(seconds) / len(seconds), 3),
        "duration_sum": round(sum(seconds), 3),
        "duration_min": min(seconds),
        "duration_max": max(seconds),
        "executions_count": len(results),
        "executions_count_by_result": counts,
    }
