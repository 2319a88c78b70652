from __future__ import annotations

import re

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.builders import make_build, make_job
from bk_pipeline_tests.worlds import last_thursday


@pytest.fixture
def served():
    sandbox = Sandbox(World(days=1, builds_per_day=10, today=last_thursday()))
    with running(sandbox) as url:
        yield sandbox, environment(sandbox, url)


def add_build(sandbox, **fields):
    """A build of today that the sandbox serves."""
    payload = sandbox.world.finish_build_now() | fields
    sandbox.world.add_build(payload)
    return payload


def test_a_build_is_fetched_and_then_shown_from_the_table(call, served):
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
    asked = sandbox.buildkite.request_count
    stored = call("trace", f"{slug}#{number}", **settings)
    assert stored.stdout == fetched.stdout
    assert stored.stderr == ""
    assert sandbox.buildkite.request_count == asked
    call("trace", "--fetch", f"{slug}#{number}", **settings)
    assert sandbox.buildkite.request_count == asked + 1


def test_what_failed_is_named_below_with_its_page(call, served):
    sandbox, settings = served
    made = sandbox.world.finish_build_now()
    jobs = [make_job("lint", state="failed", exit_status=3), make_job("test")]
    payload = make_build(jobs, state="failed", pipeline=made["pipeline"], id=made["id"], number=77)
    sandbox.world.add_build(payload)
    done = call("trace", f"{made['pipeline']['slug']}#77", **settings, COLUMNS="60")
    assert done.returncode == 0, done.stderr
    assert "✗ lint (exit 3)" in done.stdout
    assert f"✗ lint: failed after 10.0 s  {jobs[0]['web_url']}" in done.stdout


def test_colour_is_for_terminals_that_want_it(call, served):
    sandbox, settings = served
    url = add_build(sandbox)["web_url"]
    coloured = call("trace", url, **settings, FORCE_COLOR="1", TERM="xterm")
    assert "\x1b[32m" in coloured.stdout
    plain = call("trace", url, **settings, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm")
    assert "\x1b[32m" not in plain.stdout


def test_a_build_by_uuid_is_asked_for_by_the_time_in_it(call, served):
    sandbox, settings = served
    day, _ = sandbox.world.first_and_last_day()
    payloads = (build_as_of(one, sandbox.world.now_ms()) for one in sandbox.world.builds(day))
    build = next(one for one in payloads if one and one["finished_at"])
    done = call("trace", build["id"], **settings)
    assert done.returncode == 0, done.stderr
    assert f"{build['pipeline']['slug']} #{build['number']}" in done.stdout


def test_a_build_that_has_not_finished_is_told_by_its_jobs(call, served):
    sandbox, settings = served
    payload = add_build(sandbox, finished_at=None, state="running")
    slug, number = payload["pipeline"]["slug"], payload["number"]
    done = call("trace", payload["web_url"], **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{slug}#{number} is running; its ")
    assert "Its trace is available after it has finished." in done.stdout


@pytest.mark.parametrize("state", ["skipped", "not_run"])
def test_a_build_that_never_runs_is_told_to_have_no_trace(call, served, state):
    sandbox, settings = served
    payload = add_build(sandbox, finished_at=None, state=state)
    done = call("trace", payload["web_url"], **settings)
    assert (done.returncode, "available after it has finished" in done.stdout) == (0, False)
    assert f"is {state.replace('_', ' ')}: it never runs and has no trace." in done.stdout


@pytest.mark.parametrize(
    ("build", "status", "says"),
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
def test_what_cannot_be_shown_is_said_in_a_sentence(call, served, build, status, says):
    _, settings = served
    done = call("trace", build, **settings)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_a_token_only_the_table_is_looked_into(call):
    done = call("trace", "web#1")
    assert done.returncode == 2
    assert "BUILDKITE_API_TOKEN is not set." in done.stderr


def test_a_destination_that_does_not_answer_costs_the_link_and_nothing_else(call, served):
    sandbox, settings = served
    url = add_build(sandbox)["web_url"]
    settings |= {"HONEYCOMB_API_KEY": "unknown"}
    done = call("trace", url, **settings)
    assert done.returncode == 0
    assert "█" in done.stdout
    assert "No link to honeycomb_events: Honeycomb (dataset buildkite" in done.stderr


def test_a_spent_quota_is_said_with_when_to_come_back(call, served):
    sandbox, settings = served
    url = add_build(sandbox)["web_url"]
    sandbox.limits.consume("rest_user", 60)
    done = call("trace", url, **settings)
    assert done.returncode == 75
    assert "Buildkite's user quota (50 a minute) is spent (429)." in done.stderr
    assert re.search(r" Try again in \d\d s\.$", done.stderr.strip())


def test_addresses_of_other_hosts_are_not_printed(call, tmp_path):
    sandbox = Sandbox(World(days=1, builds_per_day=0, today=last_thursday()))
    foreign = "https://evil.example/acme/web/builds/1"
    payload = sandbox.world.finish_build_now() | {"web_url": foreign}
    sandbox.world.add_build(payload)
    with running(sandbox) as url:
        done = call("trace", payload["id"], "--fetch", **environment(sandbox, url))
    assert done.returncode == 0, done.stderr
    assert "evil.example" not in done.stdout + done.stderr
