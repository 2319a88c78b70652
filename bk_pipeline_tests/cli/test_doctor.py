from __future__ import annotations

import time

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.worlds import recent_world


def test_each_check_prints_a_line_and_exit_status_is_0_if_nothing_failed(call):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=10))
    with running(sandbox) as url:
        done = call("doctor", "--days", "2", **environment(sandbox, url))
    assert done.returncode == 0, done.stdout
    *lines, empty, last = done.stdout.splitlines()
    assert len(lines) == 14
    assert all(line.startswith(("✓ ", "! ")) for line in lines)
    assert lines[1].startswith('✓ token: "Sandbox token" of sandbox')
    assert empty == ""
    assert last.startswith("Ready: run make dev")
    assert "Traceback" not in done.stderr
    secrets = sandbox.buildkite_token, sandbox.honeycomb_key
    assert not any(secret in done.stdout + done.stderr for secret in secrets)


def test_test_event_arrives_with_its_time_and_only_if_asked_for(call):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=10))
    with running(sandbox) as url:
        variables = environment(sandbox, url)
        call("doctor", "--days", "1", **variables)
        assert sandbox.honeycomb.events == []
        done = call("doctor", "--days", "1", "--send-test-event", **variables)
    assert done.returncode == 0, done.stdout
    [event] = sandbox.honeycomb.events
    assert event.data["name"] == "bk_pipeline.test"
    assert event.dataset == "buildkite"
    assert abs(event.time_ns / 1e9 - time.time()) < 600
    [line] = [one for one in done.stdout.splitlines() if "test event" in one and "honeycomb" in one]
    assert "accepted an event with the name bk_pipeline.test" in line


def test_refused_test_event_fails_the_check(call):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=10))
    sandbox.faults.inject("honeycomb", "status", status=403, path="/1/events/*")
    with running(sandbox) as url:
        done = call("doctor", "--days", "1", "--send-test-event", **environment(sandbox, url))
    assert done.returncode == 1
    assert "✗ test event, honeycomb_events:" in done.stdout


def test_exit_status_2_names_the_setting(call):
    done = call("doctor", BUILDKITE_API_TOKEN="bkua_1")
    assert done.returncode == 2
    assert "✗ token: BUILDKITE_ORGANIZATION_SLUG is not set." in done.stdout
    assert "· organization: skipped because token failed" in done.stdout
    assert done.stdout.endswith("1 check failed. Fix it, then run bk-pipeline doctor again.\n")
