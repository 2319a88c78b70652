from __future__ import annotations

import re

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.builders import make_build, make_job, make_retry
from bk_pipeline_tests.worlds import recent_world


@pytest.fixture
def served():
    sandbox = Sandbox(recent_world(days=1, builds_per_day=10))
    with running(sandbox) as url:
        yield sandbox, environment(sandbox, url)


def add_build(sandbox, **fields):
    """Add a build of the current day to the sandbox; return its payload."""
    payload = sandbox.world.finish_build_now() | fields
    sandbox.world.add_build(payload)
    return payload


def test_delivered_build_is_shown_from_the_table_without_a_request(call, served):
    sandbox, settings = served
    payload = add_build(sandbox)
    day = payload["created_at"][:10]
    slug, number = payload["pipeline"]["slug"], payload["number"]

    fetched = call("trace", payload["web_url"], **settings)
    assert fetched.returncode == 0, fetched.stderr
    assert f"{slug} #{number}" in fetched.stdout
    assert "█" in fetched.stdout
    assert "\x1b[" not in fetched.stdout
    assert f"materialize {day} to deliver it" in fetched.stderr
    trace_id = payload["id"].replace("-", "")
    link = f"{settings['HONEYCOMB_API_ENDPOINT']}/sandbox/environments/sandbox/datasets/buildkite/"
    assert f"Honeycomb: {link}trace?trace_id={trace_id}" in fetched.stdout

    done = call("backfill", "--from", day, "--to", day, **settings)
    assert done.returncode == 0, done.stderr
    requests_before = sandbox.buildkite.request_count
    stored = call("trace", f"{slug}#{number}", **settings)
    assert stored.stdout == fetched.stdout
    assert stored.stderr == ""
    assert sandbox.buildkite.request_count == requests_before
    call("trace", "--fetch", f"{slug}#{number}", **settings)
    assert sandbox.buildkite.request_count == requests_before + 1


def test_failed_jobs_are_listed_with_their_pages(call, served):
    sandbox, settings = served
    made = sandbox.world.finish_build_now()
    jobs = [make_job("lint", state="failed", exit_status=3), make_job("test")]
    payload = make_build(jobs, state="failed", pipeline=made["pipeline"], id=made["id"], number=77)
    sandbox.world.add_build(payload)
    done = call("trace", f"{made['pipeline']['slug']}#77", **settings, COLUMNS="60")
    assert done.returncode == 0, done.stderr
    assert "✗ lint (exit 3)" in done.stdout
    assert f"✗ lint: failed after 10.0 s  {jobs[0]['web_url']}" in done.stdout


def test_cost_is_shown_if_prices_are_known(call, served, tmp_path):
    sandbox, settings = served
    file = tmp_path / "costs.toml"
    file.write_text('currency = "EUR"\n[[price]]\nid = "all"\nper_minute = 6\n')
    made = sandbox.world.finish_build_now()
    first = make_job("test", state="failed", run_s=5)
    jobs = [first, make_retry(first, made_s=60, kind="automatic", run_s=20)]
    payload = make_build(jobs, pipeline=made["pipeline"], id=made["id"], number=78)
    sandbox.world.add_build(payload)
    number = f"{made['pipeline']['slug']}#78"
    shown = call("trace", number, **settings, BK_PIPELINE_COSTS=str(file)).stdout.splitlines()
    assert shown[1].endswith("  cost 2.50 EUR, of which 0.5000 for retried attempts")
    assert "cost" not in call("trace", number, **settings).stdout


def test_color_is_used_only_on_terminals_and_without_no_color(call, served):
    sandbox, settings = served
    url = add_build(sandbox)["web_url"]
    colored = call("trace", url, **settings, FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[32m" in colored.stdout
    plain = call("trace", url, **settings, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm")
    assert "\x1b[32m" not in plain.stdout


def test_build_is_found_at_buildkite_by_the_time_in_its_uuid(call, served):
    sandbox, settings = served
    day, _ = sandbox.world.first_and_last_day()
    payloads = (build_as_of(one, sandbox.world.now_ms()) for one in sandbox.world.builds(day))
    build = next(one for one in payloads if one and one["finished_at"])
    done = call("trace", build["id"], **settings)
    assert done.returncode == 0, done.stderr
    assert f"{build['pipeline']['slug']} #{build['number']}" in done.stdout


def test_unfinished_build_is_described_by_its_jobs(call, served):
    sandbox, settings = served
    payload = add_build(sandbox, finished_at=None, state="running")
    slug, number = payload["pipeline"]["slug"], payload["number"]
    done = call("trace", payload["web_url"], **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{slug}#{number} is running; its ")
    assert "Its trace is available after it has finished." in done.stdout
    fields = [f"build.{one}" for one in ("number", "state", "web_url")]
    hidden = ",".join(f"buildkite.{one}" for one in ("pipeline.slug", "job.state", *fields))
    done = call("trace", payload["web_url"], **settings, BK_PIPELINE_SPANS_DROP=hidden)
    assert re.match(r"#\? is not finished; its \d+ jobs?: \d+ unknown\. Its trace", done.stdout)
    assert not [one for one in (slug, str(number), "running") if one in done.stdout + done.stderr]


@pytest.mark.parametrize("state", ["skipped", "not_run"])
def test_build_that_never_runs_has_no_trace(call, served, state):
    sandbox, settings = served
    payload = add_build(sandbox, finished_at=None, state=state)
    done = call("trace", payload["web_url"], **settings)
    assert (done.returncode, "available after it has finished" in done.stdout) == (0, False)
    assert f"is {state.replace('_', ' ')}: it never runs and has no trace." in done.stdout


@pytest.mark.parametrize(
    ("build", "status", "message"),
    [
        ("nonsense", 2, "nonsense names no build. Give its URL"),
        ("999999", 1, "Name its pipeline, like web#999999"),
        ("web#999999", 1, "Buildkite has no build 999999 of acme/web"),
        ("nowhere#1", 1, "Buildkite has no build 1 of acme/nowhere"),
        ("https://buildkite.com/other/web/builds/1", 2, "The build is one of other"),
        ("0b7fa0c9-2d1c-4f2a-9d57-7a1d5e0f4a11", 1, "Give the build's URL."),
        ("019cadc6-9a80-7abc-8def-0123456789ab", 1, "Buildkite lists no build 019cadc6-"),
    ],
)
def test_build_that_cannot_be_shown_is_an_error_with_advice(call, served, build, status, message):
    _, settings = served
    done = call("trace", build, **settings)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_missing_token_is_named_if_the_table_lacks_the_build(call):
    done = call("trace", "web#1")
    assert done.returncode == 2
    assert "BUILDKITE_API_TOKEN is not set." in done.stderr


def test_failing_destination_costs_only_the_trace_link(call, served):
    sandbox, settings = served
    url = add_build(sandbox)["web_url"]
    settings |= {"HONEYCOMB_API_KEY": "unknown"}
    done = call("trace", url, **settings)
    assert done.returncode == 0
    assert "█" in done.stdout
    assert "No link to honeycomb_events: Honeycomb (dataset buildkite" in done.stderr


def test_exhausted_quota_is_reported_with_the_time_to_retry(call, served):
    sandbox, settings = served
    url = add_build(sandbox)["web_url"]
    sandbox.limits.consume("rest_user", 60)
    done = call("trace", url, **settings)
    assert done.returncode == 75
    assert "Buildkite's user quota (50 a minute) is spent (429)." in done.stderr
    assert re.search(r" Try again in \d\d s\.$", done.stderr.strip())


def test_urls_of_other_hosts_are_not_printed(call, tmp_path):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=0))
    foreign = "https://evil.example/acme/web/builds/1"
    payload = sandbox.world.finish_build_now() | {"web_url": foreign}
    sandbox.world.add_build(payload)
    with running(sandbox) as url:
        done = call("trace", payload["id"], "--fetch", **environment(sandbox, url))
    assert done.returncode == 0, done.stderr
    assert "evil.example" not in done.stdout + done.stderr
