"""Artifacts of the sandbox's jobs, which share no code with what reads them."""

from __future__ import annotations

from datetime import date, datetime

from bk_pipeline.sandbox.artifacts import artifacts_of
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.sources.junit import read_junit
from bk_pipeline.sources.model import JobTimes
from bk_pipeline.sources.profile import read_profile
from bk_pipeline.sources.profile_events import EventPolicy
from bk_pipeline.spans.model import SpanKind
from bk_pipeline_tests.sources.artifact_goldens import ALL_CASES
from bk_pipeline_tests.sources.found import check

DAY = date(2026, 11, 20)
LATER_MS = 7 * 86_400_000


def artifacts():
    """Yield path, content and job of what the jobs of some builds uploaded."""
    world = World(seed=7, days=1, builds_per_day=60, today=DAY)
    for one in world.builds(DAY):
        at_ms = one.created_ms + LATER_MS
        for job in build_as_of(one, at_ms)["jobs"]:
            for artifact in artifacts_of(job, at_ms):
                start, end = (
                    datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at")
                )
                times = JobTimes(
                    job["id"], *(round(at.timestamp() * 1_000) * 1_000_000 for at in (start, end))
                )
                yield artifact.path, artifact.content(), times


def test_artifacts_are_read_whole_and_lie_in_their_jobs():
    read = {SpanKind.SUITE: 0, SpanKind.THREAD: 0}
    exact = flaky = 0
    for path, content, job in artifacts():
        if path.endswith(".xml"):
            found = read_junit([content], job, path=path, cases=ALL_CASES)
            assert sum(found.cases.values()) == content.count(b"<testcase ")
            flaky += sum(one.failed_before > 0 for one in found.results)
            # Half of the files have the times of suites: these are taken as they are.
            dated = [
                span for span in found.spans if span.kind is SpanKind.SUITE and not span.guessed
            ]
            assert len(dated) in {0, found.suites}
            assert bool(dated) == (b" timestamp=" in content)
            exact += len(dated)
        elif "result.txt" not in path:
            found = read_profile([content], job, path=path, events=EventPolicy(min_ms=0))
            assert (found.unreadable, found.outside) == (0, 0)
        else:
            continue
        assert found.problem is None
        check(found.spans, job)
        read[found.spans[0].kind] += 1
    assert all(count > 3 for count in (*read.values(), exact, flaky)), (read, exact, flaky)
