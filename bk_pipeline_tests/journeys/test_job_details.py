"""Logs, tests and profiles of a living world become spans inside of jobs, each read and sent once."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.pipeline import (
    deliver_day,
    extract_day,
    job_sources,
    read_job_details,
    transform_day,
)
from bk_pipeline.pipeline.details import preview, usual_durations
from bk_pipeline_tests.worlds import stage

LOGS = '[[rule]]\nid = "failed"\nfailed = true\n'
EVERYTHING = """
[[rule]]
id = "failed"
failed = true
read = ["log", "tests", "profiles"]
cases = "all"

[[rule]]
id = "some"
one_in = 8
read = ["log", "tests", "profiles"]
commands = true
"""
INSIDE = "name NOT LIKE 'buildkite.%' OR name LIKE 'buildkite.job.section%'"
TEXTS = (
    "buildkite.job.section.name",
    "buildkite.job.section.command",
    "bk_pipeline.failure.message",
    "bk_pipeline.failure.signature",
    "test.suite.name",
    "test.case.name",
    "bk_pipeline.test.class",
    "bk_pipeline.test.file",
    "thread.name",
    "bk_pipeline.profile.name",
    "bk_pipeline.profile.category",
)


class Journey:
    """A stored day of a world, its policy, and reading and delivering it."""

    def __init__(self, scene, policy: Path) -> None:
        self.scene, self.services, self.policy = scene, scene.services, policy
        self.day = scene.days[-1]
        for day in scene.days:
            self.extract(day)

    def extract(self, day) -> None:
        raw = self.services.raw()
        with self.services.buildkite(on_wait=print) as client:
            found = day_of(day, self.services.settings)
            extract_day(found, client=client, raw=raw, clock=self.scene.clock)
        transform_day(day, raw=raw, spans=self.services.spans())

    def read(self, text: str | None = None, *, privacy=None):
        """Read job details by the policy in `text`; return the result and the requests it took."""
        if text is not None:
            self.policy.write_text(text)
        app, policy = self.services, self.services.job_details()
        before = self.scene.sandbox.buildkite.request_count
        with (
            app.buildkite(on_wait=print, deadline_s=5) as client,
            app.details(client, share=1.0, bytes_per_day=policy.bytes_per_day) as details,
            app.ledger() as ledger,
        ):
            done = read_job_details(
                self.day,
                spans=app.spans(),
                client=details,
                policy=policy,
                ledger=ledger,
                clock=self.scene.clock,
                privacy=privacy or app.privacy(),
            )
        return done, self.scene.sandbox.buildkite.request_count - before

    def deliver(self) -> None:
        with self.services.ledger() as ledger:
            for one in self.services.destinations():
                with self.services.destination(one) as to:
                    deliver_day(
                        self.day,
                        spans=self.services.spans(),
                        destination=to,
                        ledger=ledger,
                        clock=self.scene.clock,
                    )

    def query(self, sql):
        with self.services.database() as database:
            return database.table(sql).to_pylist()

    def inside(self):
        return self.query(f"SELECT * FROM spans WHERE {INSIDE}")

    def assert_sound(self):
        """Every span inside of a job is below one, within it, has its own id, and was read once."""
        rows = {row["span_id"]: row for row in self.query("SELECT * FROM spans")}
        inside = self.inside()
        assert len({row["span_id"] for row in inside}) == len(inside)
        for row in inside:
            parent = rows[row["parent_span_id"]]
            assert parent["trace_id"] == row["trace_id"]
            assert parent["start_ns"] <= row["start_ns"] <= row["end_ns"] <= parent["end_ns"]
        sources = self.services.spans().read_sources(self.day)
        assert len({(one.span_id, one.source) for one in sources}) == len(sources)
        return inside

    def assert_all_sent_once(self):
        sandbox = self.scene.sandbox
        honeycomb = Counter(
            one.data["trace.span_id"]
            for one in sandbox.honeycomb.events
            if "trace.span_id" in one.data
        )
        stored = Counter(row["span_id"] for row in self.query("SELECT span_id FROM spans"))
        assert honeycomb == stored == Counter(one.span_id for one in sandbox.otlp.spans)


@pytest.fixture
def journey(tmp_path):
    policy = tmp_path / "job-details.toml"
    named = {"BK_PIPELINE_JOB_DETAILS": str(policy)}
    with stage(tmp_path / "data", builds_per_day=40, otlp=True, **named) as scene:
        yield Journey(scene, policy)


def test_what_is_inside_of_jobs_is_read_once_and_sent_once(journey):
    done, _ = journey.read(EVERYTHING)
    inside = journey.assert_sound()
    kinds = Counter(row["name"] for row in inside)
    assert done.spans == kinds
    assert set(kinds) == {
        *("buildkite.job.section", "buildkite.job.section.command"),
        *("test.suite", "test.case", "profile.thread", "profile.event"),
    }
    assert done.stopped is None
    assert done.missing == []
    assert done.sources["gone"] > 0  # some logs of the world are deleted
    journey.deliver()
    journey.assert_all_sent_once()

    again, requests = journey.read()
    assert (requests, again.sources, again.spans) == (0, Counter(), Counter())
    assert again.known == done.sources.total()
    journey.deliver()
    journey.assert_all_sent_once()


def test_failed_jobs_have_a_section_that_says_why(journey):
    done, _ = journey.read(LOGS)
    rows = [row for row in journey.inside() if row["status"] == "error"]
    assert len(rows) == done.sources["read"]
    assert len({row["buildkite.job.id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["bk_pipeline.failure.kind"] in {
            "test",
            "build",
            "infrastructure",
            "timeout",
            "unknown",
        }
        assert len(row["bk_pipeline.failure.signature"]) == 16
        assert row["bk_pipeline.failure.message"]


def test_a_day_costs_the_requests_that_the_preview_says(journey):
    journey.policy.write_text(LOGS)
    expected = preview(
        [journey.day], spans=journey.services.spans(), policy=journey.services.job_details()
    )
    done, requests = journey.read()
    assert requests == expected.logs == done.chosen > 0
    assert f"{expected.logs} logs: {expected.logs} requests a day" in str(expected)
    assert expected.events is None
    known = preview(
        [journey.day], spans=journey.services.spans(), policy=journey.services.job_details()
    )
    # By what was read: a deleted log gives nothing, and counts.
    assert known.events == done.spans.total()
    assert f"about {known.events:,} a day" in str(known)

    text = LOGS + 'read = ["log", "tests"]\n'
    journey.policy.write_text(text)
    expected = preview(
        [journey.day], spans=journey.services.spans(), policy=journey.services.job_details()
    )
    store = journey.scene.sandbox.buildkite.details.store
    before = store.request_count
    done, requests = journey.read()
    assert expected.listings == done.chosen
    # Each artifact takes a request to Buildkite and one to the store.
    assert requests == expected.listings + store.request_count - before


def test_without_a_scope_the_rest_is_read_and_later_what_was_left_out(journey, tmp_path):
    sandbox, app = journey.scene.sandbox, journey.services
    token = sandbox.add_token(["read_builds", "read_build_logs"])
    journey.services = app.changed({"BUILDKITE_API_TOKEN": token})
    done, _ = journey.read(LOGS + 'read = ["log", "tests"]\n')
    assert done.sources["read"] > 0
    assert done.left_out == done.chosen
    [message] = done.missing
    assert "read_artifacts" in message
    assert token not in message
    journey.services = app
    later, _ = journey.read()
    assert (later.left_out, later.known) == (0, done.sources.total())
    assert later.spans["test.case"] > 0
    journey.assert_sound()


def test_file_that_is_too_large_hides_no_other(journey, monkeypatch):
    monkeypatch.setattr(job_sources, "MAX_TESTS_BYTES", 2_000)
    done, _ = journey.read('[[rule]]\nid = "some"\none_in = 4\nread = ["tests", "profiles"]\n')
    assert done.sources["too_large"] > 0
    assert done.spans["profile.thread"] > 0
    journey.assert_sound()


def test_tests_of_test_engine_are_those_of_each_job(journey):
    done, _ = journey.read(LOGS + 'read = ["test_engine"]\ncases = "all"\n')
    assert done.sources == {"read": done.chosen}
    rows = journey.assert_sound()
    names = Counter(row["name"] for row in rows)
    assert names["test.case"] > names["test.suite"] > 0
    by_file, _ = journey.read(LOGS + 'read = ["tests"]\ncases = "all"\n')
    engine = {row["buildkite.job.id"] for row in rows}
    jobs = {row["buildkite.job.id"] for row in journey.inside() if row["bk_pipeline.artifact.path"]}
    assert jobs & engine
    assert by_file.spans["test.case"] > 0


def test_what_the_bytes_of_a_day_leave_out_is_read_on_the_next(journey):
    text = "mib_per_day = 1\n" + EVERYTHING
    budget = journey.services.settings.quota_path.with_name("job-details-bytes.json")
    first, _ = journey.read(text)
    budget.write_text(f'{{"day": "{journey.scene.clock.now():%Y-%m-%d}", "bytes": 99999999}}')
    more = text.replace("one_in = 8", "one_in = 2")
    stopped, _ = journey.read(more)
    assert stopped.stopped
    assert "1,048,576 bytes" in stopped.stopped
    assert stopped.left_out > 0
    budget.write_text('{"day": "2000-01-01", "bytes": 99999999}')
    rest, _ = journey.read(more)
    assert rest.stopped is None
    assert rest.known == first.sources.total() + stopped.sources.total()
    journey.assert_sound()


def test_a_run_ends_in_time_and_the_next_goes_on(journey):
    text = "minutes_per_run = 0.0001\n" + LOGS
    runs = []
    for _ in range(40):
        done, _ = journey.read(text)
        runs.append(done)
        if not done.left_out:
            break
    assert runs[0].stopped == "The 0.0001 minutes of a run are over."
    assert not runs[-1].left_out
    assert sum(one.sources.total() for one in runs) == runs[0].chosen
    journey.assert_sound()


def test_failing_service_stops_reading_and_keeps_what_was_read(journey):
    journey.scene.sandbox.faults.inject(
        "buildkite", "status", status=503, after=3, count=1000, path="*/log"
    )
    done, _ = journey.read(LOGS)
    assert done.sources.total() == 3
    assert done.stopped
    assert done.left_out == done.chosen - 3
    journey.scene.sandbox.faults.clear()
    rest, _ = journey.read()
    assert (rest.known, rest.left_out) == (3, 0)
    journey.assert_sound()


def test_no_text_of_logs_and_artifacts_leaves_if_it_is_forbidden(journey):
    journey.read("text = false\n" + EVERYTHING)
    rows = journey.inside()
    assert {row["name"] for row in rows} >= {"buildkite.job.section", "test.suite", "test.case"}
    assert {row[name] for row in rows for name in TEXTS} == {None}
    assert any(row["bk_pipeline.failure.kind"] for row in rows)


def test_logs_are_stored_only_if_asked_for(journey, tmp_path):
    journey.read(LOGS)
    folder = tmp_path / "data" / "logs" / journey.day
    assert not folder.exists()
    done, _ = journey.read('keep_logs = true\n[[rule]]\nid = "some"\none_in = 4\nfailed = false\n')
    sizes = {one.span_id: one.bytes for one in journey.services.spans().read_sources(journey.day)}
    rows = journey.query(
        "SELECT \"buildkite.job.id\" AS job_id, span_id FROM spans WHERE name = 'buildkite.job'"
    )
    of_job = {row["job_id"]: row["span_id"] for row in rows}
    stored = {path.name.removesuffix(".log.gz"): path for path in folder.iterdir()}
    assert len(stored) == done.sources["read"] > 0
    for job_id, path in stored.items():
        assert len(gzip.decompress(path.read_bytes())) == sizes[of_job[job_id]]
    journey.assert_sound()


def test_slow_jobs_are_compared_with_the_days_before(tmp_path):
    policy = tmp_path / "job-details.toml"
    named = {"BK_PIPELINE_JOB_DETAILS": str(policy)}
    with stage(tmp_path / "data", days=4, builds_per_day=60, **named) as scene:
        journey = Journey(scene, policy)
        usual = usual_durations(journey.day, journey.services.spans())
        assert len(usual) > 5
        done, _ = journey.read('[[rule]]\nid = "slow"\nslow = true\n')
        rows = journey.query("SELECT DISTINCT job_id, pipeline, step, duration_s FROM jobs JOIN "
                             f'(SELECT DISTINCT "buildkite.job.id" AS job_id FROM spans WHERE {INSIDE}) USING (job_id)')  # fmt: skip
        assert len(rows) == done.sources["read"] > 0
        assert all(row["duration_s"] > usual[row["pipeline"], row["step"]] for row in rows)


def test_asset_reads_and_the_loaders_send(tmp_path):
    policy = tmp_path / "job-details.toml"
    policy.write_text(LOGS)
    named = {"BK_PIPELINE_JOB_DETAILS": str(policy)}
    with stage(tmp_path / "data", builds_per_day=10, otlp=True, **named) as scene:
        with dg.DagsterInstance.ephemeral() as instance:
            [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        journey = Journey(scene, policy)
        done = run.results["job_details"]
        assert done.sources["read"] > 0
        journey.assert_sound()
        journey.assert_all_sent_once()


WORKER = """
import sys
from bk_pipeline.app import App
from bk_pipeline.pipeline import details
from bk_pipeline.settings import Settings

details.PART_SOURCES = 5
app = App(Settings.load())
policy = app.job_details()
with (
    app.buildkite() as client,
    app.details(client, share=1.0, bytes_per_day=policy.bytes_per_day) as reader,
    app.ledger() as ledger,
):
    details.read_job_details(
        sys.argv[1], spans=app.spans(), client=reader, policy=policy, ledger=ledger,
        clock=app.clock, privacy=app.privacy(),
    )
"""


def test_killed_runs_lose_and_double_nothing(tmp_path):
    policy = tmp_path / "job-details.toml"
    named = {"BK_PIPELINE_JOB_DETAILS": str(policy)}
    with stage(tmp_path / "data", builds_per_day=40, live=True, otlp=True, **named) as scene:
        journey = Journey(scene, policy)
        policy.write_text(EVERYTHING)
        variables = os.environ | scene.services.settings.environment
        kills = 0
        for after in (8, 20, 45):
            began = scene.sandbox.buildkite.request_count
            worker = subprocess.Popen([sys.executable, "-c", WORKER, journey.day], env=variables)
            deadline = time.monotonic() + 120
            while worker.poll() is None and scene.sandbox.buildkite.request_count < began + after:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            worker.send_signal(signal.SIGKILL)
            kills += worker.wait() == -signal.SIGKILL
            journey.deliver()
            journey.assert_all_sent_once()
        assert kills == 3
        known = len(scene.services.spans().read_sources(journey.day))
        done, _ = journey.read()
        assert done.known == known > 0
        assert done.known + done.sources.total() == 3 * done.chosen
        journey.assert_sound()
        journey.deliver()
        journey.assert_all_sent_once()
