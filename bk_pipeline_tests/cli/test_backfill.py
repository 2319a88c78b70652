from __future__ import annotations

import json
import re
import signal
from functools import partial

import dagster as dg
import pytest
from click.testing import CliRunner

from bk_pipeline.cli.backfill import without_trace
from bk_pipeline.cli.commands import backfill
from bk_pipeline.cli.demo import environment
from bk_pipeline.errors import FatalError, RetryableError
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.buildkite.listed import build
from bk_pipeline_tests.cli.program import run, started, wait_until
from bk_pipeline_tests.worlds import recent_world

TOKEN = "bkua_" + "0123456789abcdef" * 2
READY = {"BUILDKITE_API_TOKEN": TOKEN, "BUILDKITE_ORGANIZATION_SLUG": "acme"}


@pytest.mark.parametrize(
    ("first", "last", "settings", "message"),
    [
        ("2026-11-01", "2026-11-02", {}, "BUILDKITE_API_TOKEN is not set."),
        ("2026-11-02", "2026-11-01", READY, "--to 2026-11-01 is before --from 2026-11-02."),
        ("2025-12-31", "2026-01-01", READY, "Set BK_PIPELINE_START_DATE to an earlier day."),
        ("2026-11-01", "2099-01-01", READY, "--to 2099-01-01 is in the future; today is"),
        ("2026-11-01", "2026-11-01", {"BK_PIPELINE_TIMEZONE": "Mars"}, "BK_PIPELINE_TIMEZONE is"),
    ],
    ids=["no token", "reversed", "before the first day", "in the future", "malformed setting"],
)
def test_invalid_settings_or_days_are_a_one_line_error_with_status_2(
    tmp_path, first, last, settings, message
):
    done = run("backfill", "--from", first, "--to", last, cwd=tmp_path, **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_invalid_date_is_a_usage_error(tmp_path):
    done = run("backfill", "--from", "yesterday", "--to", "today", cwd=tmp_path, **READY)
    assert done.returncode == 2
    assert "'--from': expected YYYY-MM-DD, got 'yesterday'" in done.stderr


@pytest.fixture
def served():
    sandbox = Sandbox(recent_world(days=2, builds_per_day=7))
    with running(sandbox) as url:
        yield sandbox, environment(sandbox, url)


def test_days_are_materialized_by_dagster_and_delivered_once(tmp_path, served):
    sandbox, settings = served
    first, last = sandbox.world.first_and_last_day()
    arguments = ("--from", first.isoformat(), "--to", last.isoformat())
    done = run("backfill", *arguments, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 of 3 days: ")
    stored = sandbox.honeycomb.event_count
    assert f"honeycomb_events: {stored:,} accepted, 0 rejected, 0 too old." in done.stdout
    again = run("backfill", *arguments, cwd=tmp_path, **settings)
    assert "honeycomb_events: 0 accepted" in again.stdout
    assert again.stdout.startswith("3 of 3 days: 0 new builds, 0 spans made.")
    assert sandbox.honeycomb.event_count == stored
    assert sandbox.honeycomb.duplicate_count == 0
    # The instance that the UI shows has the materializations.
    with dg.DagsterInstance.from_config(str(tmp_path / ".dagster")) as instance:
        days = instance.get_materialized_partitions(dg.AssetKey("honeycomb_events"))
    assert first.isoformat() in days


def test_old_builds_are_sent_once_and_only_without_an_age_limit(tmp_path, served):
    sandbox, settings = served
    build = json.loads(json.dumps(OLD_BUILD))
    sandbox.world.add_build(build)
    arguments = ("backfill", "--from", "2023-08-20", "--to", "2023-08-20")
    settings |= {"BK_PIPELINE_START_DATE": "2023-08-01"}
    done = run(*arguments, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert "honeycomb_events: 0 accepted, 0 rejected, 4 too old." in done.stdout
    assert "BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS=0" in done.stdout
    assert sandbox.honeycomb.event_count == 0
    for _ in range(2):
        done = run(*arguments, cwd=tmp_path, **settings, BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS="0")
        assert done.returncode == 0, done.stderr
    assert sandbox.honeycomb.event_count == 4
    [job] = [one for one in sandbox.honeycomb.events if one.data["name"] == "buildkite.job"]
    assert job.data["duration_ms"] == 2568.0


OLD_BUILD = {
    "id": "018a1474-63cd-41f8-9b87-000000000001",
    "number": 2,
    "state": "passed",
    "created_at": "2023-08-20T19:38:06.680Z",
    "finished_at": "2023-08-20T19:38:19.015Z",
    "web_url": "https://buildkite.com/acme/starter/builds/2",
    "url": "https://api.buildkite.com/v2/organizations/acme/pipelines/starter/builds/2",
    "pipeline": {"slug": "starter", "name": "Starter"},
    "env": {"SECRET": "hush"},
    "jobs": [
        {
            "id": "018a1474-63d7-41e2-8559-000000000002",
            "type": "script",
            "name": ":pipeline:",
            "state": "passed",
            "exit_status": 0,
            "created_at": "2023-08-20T19:38:06.663Z",
            "runnable_at": "2023-08-20T19:38:06.743Z",
            "started_at": "2023-08-20T19:38:11.659Z",
            "finished_at": "2023-08-20T19:38:14.227Z",
        }
    ],
}


def backfill_arguments(sandbox) -> tuple[str, ...]:
    first, last = sandbox.world.first_and_last_day()
    return ("backfill", "--from", first.isoformat(), "--to", last.isoformat())


def test_failed_day_does_not_stop_the_others_and_sets_the_exit_status(tmp_path, served):
    sandbox, settings = served
    settings |= {"BK_PIPELINE_HTTP_DEADLINE_S": "0"}
    first, _ = sandbox.world.first_and_last_day()
    sandbox.faults.inject("buildkite", "status", status=500, count=1)
    done = run(*backfill_arguments(sandbox), cwd=tmp_path, **settings)
    assert done.returncode == 75  # the service may be back later
    assert "2 of 3 days" in done.stdout
    assert f"Failed: {first}: " in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "bk-pipeline: 1 of 3 days failed. Run the same command again to process them."
    )
    assert "Traceback" not in done.stderr
    again = run(*backfill_arguments(sandbox), cwd=tmp_path, **settings)
    assert again.returncode == 0
    assert "3 of 3 days" in again.stdout
    assert sandbox.honeycomb.duplicate_count == 0


def run_in_process(sandbox, settings):
    """Run the command in this process, which is faster than `run`."""
    return CliRunner().invoke(backfill, backfill_arguments(sandbox)[1:], env=settings)


def test_permanently_refused_day_exits_with_1(served):
    sandbox, settings = served
    sandbox.faults.inject("buildkite", "status", status=400, count=1)
    done = run_in_process(sandbox, settings)
    assert isinstance(done.exception, FatalError)
    assert "2 of 3 days" in done.stdout


@pytest.mark.parametrize("service", ["buildkite", "honeycomb"])
def test_refused_token_stops_the_backfill(served, service):
    sandbox, settings = served
    sandbox.faults.inject(service, "status", status=401, count=100)
    done = run_in_process(sandbox, settings)
    assert isinstance(done.exception, FatalError)
    assert str(done.exception) == (
        "1 of 3 days failed. The other 2 would fail for the same reason and were not tried. "
        "Run the same command again to process them."
    )
    assert "0 of 3 days" in done.stdout


def test_three_failed_days_in_a_row_stop_the_backfill():
    sandbox = Sandbox(recent_world(days=5, builds_per_day=3))
    sandbox.faults.inject("buildkite", "status", status=503, count=100)
    with running(sandbox) as url:
        settings = environment(sandbox, url) | {"BK_PIPELINE_HTTP_DEADLINE_S": "0"}
        done = run_in_process(sandbox, settings)
    assert isinstance(done.exception, RetryableError)
    assert str(done.exception).startswith(
        "3 of 6 days failed. 3 failed in a row, so the other 3 were not tried."
    )
    assert sandbox.buildkite.request_count <= 3


def test_interrupted_backfill_can_be_continued(tmp_path, served):
    sandbox, settings = served
    # After two days, and two requests for names, every response is slow, so that the interruption
    # falls into the third day.
    sandbox.faults.inject("buildkite", "slow", seconds=30, after=5, count=100)
    _, last = sandbox.world.first_and_last_day()
    with started(*backfill_arguments(sandbox), cwd=tmp_path, **settings) as process:
        wait_until(lambda: sandbox.buildkite.request_count > 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "2 of 3 days" in out
    assert err.splitlines()[-1] == (
        f"bk-pipeline: Stopped at {last}. What is stored and sent is kept: run the same command "
        "again to continue."
    )
    assert "Traceback" not in err
    stored = sandbox.honeycomb.event_count
    assert stored > 0
    sandbox.faults.clear()
    before = sandbox.buildkite.request_count
    again = run(*backfill_arguments(sandbox), cwd=tmp_path, **settings)
    assert again.returncode == 0
    assert "3 of 3 days" in again.stdout
    assert sandbox.honeycomb.duplicate_count == 0
    # A request per day, and one to find out whether Link headers arrive.
    assert sandbox.buildkite.request_count == before + 4


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_delivery_reports_what_was_accepted(tmp_path, stop):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=120))
    with running(sandbox) as url:
        settings = environment(sandbox, url) | {"BK_PIPELINE_HTTP_DEADLINE_S": "600"}
        # The first request is accepted; later ones are throttled.
        sandbox.faults.inject("honeycomb", "status", path="/1/batch/*", after=1, count=1_000)
        with started(*backfill_arguments(sandbox), cwd=tmp_path, **settings) as process:
            wait_until(lambda: sandbox.honeycomb.event_count > 0)
            process.send_signal(stop)
            out, _ = process.communicate(timeout=120)
        accepted = sandbox.honeycomb.event_count
    assert f"honeycomb_events: {accepted:,} accepted" in out
    builds, spans = map(number, re.search(r"([\d,]+) new builds, ([\d,]+) spans", out).groups())
    assert builds > 50
    assert spans > 5 * builds


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_failed_delivery_reports_what_was_accepted(served):
    sandbox, settings = served
    sandbox.faults.inject("honeycomb", "status", path="/1/batch/*", status=400, after=1, count=99)
    done = run_in_process(sandbox, settings)
    assert sandbox.honeycomb.event_count > 0
    assert f"honeycomb_events: {sandbox.honeycomb.event_count:,} accepted" in done.stdout


@pytest.mark.parametrize("path", ["/1/batch/*", "/1/auth"])
def test_retry_is_printed_without_a_terminal(served, path):
    sandbox, settings = served
    sandbox.faults.inject("honeycomb", "status", path=path, status=503)
    done = run_in_process(sandbox, settings)
    assert done.exception is None
    assert "Attempt 2 follows in" in done.stderr


def test_all_spans_are_delivered_before_reports_are_made(tmp_path, served):
    sandbox, settings = served
    with pytest.MonkeyPatch.context() as patch:
        reported_at = []
        patch.setattr(
            "bk_pipeline.pipeline.summarize_day",
            lambda *_, **__: reported_at.append(sandbox.honeycomb.event_count) or 1 / 0,
        )
        done = run_in_process(sandbox, settings)
    assert sandbox.honeycomb.event_count > 0
    assert set(reported_at) == {sandbox.honeycomb.event_count}
    assert isinstance(done.exception, FatalError)  # a failed report is not ignored


def test_no_secret_is_printed_or_stored(tmp_path, served):
    sandbox, settings = served
    first, _ = sandbox.world.first_and_last_day()
    day = first.isoformat()
    done = run("backfill", "--from", day, "--to", day, cwd=tmp_path, **settings)
    secrets = sandbox.buildkite_token, sandbox.honeycomb_key
    assert not any(secret in done.stdout + done.stderr for secret in secrets)
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) > 5
    assert not any(secret.encode() in content for secret in secrets for content in stored)


def test_missing_destination_is_reported_and_spans_are_stored(tmp_path, served):
    sandbox, settings = served
    day = sandbox.world.first_and_last_day()[0].isoformat()
    settings = {k: v for k, v in settings.items() if k != "HONEYCOMB_API_KEY"}
    done = run("backfill", "--from", day, "--to", day, cwd=tmp_path, **settings)
    assert done.returncode == 0
    assert "No destination is configured: spans were made and stored, but not sent." in done.stderr
    assert not (tmp_path / ".bk_pipeline" / "ledger.sqlite").exists()


@pytest.mark.parametrize(
    ("counts", "lines"),
    [
        ({}, []),
        ({"skipped": 4}, ["4 skipped builds have no trace."]),
        ({"skipped": 1, "unfinished": 1}, [
            "1 skipped build has no trace.",
            "1 build has not finished yet and no trace until then.",
        ]),
        ({"unfinished": 1_200}, ["1,200 builds have not finished yet and no trace until then."]),
        ({"unsettled": 2}, ["2 builds have not settled yet and no trace until then."]),
        ({"unreadable": 1}, ["1 unreadable build has no trace."]),
    ],
)  # fmt: skip
def test_builds_without_a_trace_are_reported(counts, lines):
    assert list(without_trace(**counts)) == lines


def test_every_new_build_without_a_trace_and_every_damaged_file_is_in_the_output(tmp_path):
    """Of each kind, so that new builds, less those that are named, are the delivered traces."""
    sandbox = Sandbox(recent_world(days=1, builds_per_day=9))
    day = sandbox.world.first_and_last_day()[0].isoformat()
    finished = {"created_at": f"{day}T10:00:00.000Z", "finished_at": f"{day}T10:01:00.000Z"}
    unfinished = {**finished, "finished_at": None}
    jobs = [{"id": "j1", "type": "script", "state": "passed", "exit_status": "zero"}]
    odd = [
        build(4_000_000, **unfinished, state="skipped"),
        build(4_000_001, **unfinished, state="running"),
        build(4_000_002, **finished, jobs=jobs),
        build(4_000_003, **finished, pipeline=None, url=None),
    ]
    for one in odd:
        sandbox.world.add_build(one)
    with running(sandbox) as url:
        once = partial(
            CliRunner().invoke,
            backfill,
            ["--from", day, "--to", day],
            env=environment(sandbox, url),
        )
        done = once()
        [raw] = (tmp_path / ".bk_pipeline/raw").rglob("*.parquet")
        raw.write_bytes(raw.read_bytes()[:-10])
        again = once()
    [new] = re.findall(r"([\d,]+) new builds", done.stdout)
    traces = {one.data["trace.trace_id"] for one in sandbox.honeycomb.events}
    ids = [one["id"] for one in odd[2:]]
    for line in (
        "1 skipped build has no trace.",
        "1 build has not finished yet and no trace until then.",
        "2 unreadable builds have no trace.",
        f"{day}: {ids[0]}: Expected `int | null`, got `str` - at `$.jobs[0].exit_status`",
        f"{day}: {ids[1]}: Expected `str`, got `null` - at `$.pipeline.slug`",
    ):
        assert line in done.stdout.splitlines()
    # One of the unreadable builds was not even stored.
    assert number(new) + 1 == len(traces) + 1 + 1 + 2
    assert f"{day}: raw/{day}/{raw.name} in" in again.stdout
