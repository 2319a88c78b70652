from __future__ import annotations

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.worlds import last_thursday


def test_each_check_prints_a_line_and_exit_status_is_0_if_nothing_failed(call):
    sandbox = Sandbox(World(days=1, builds_per_day=10, today=last_thursday()))
    with running(sandbox) as url:
        done = call("doctor", "--days", "2", **environment(sandbox, url))
    assert done.returncode == 0, done.stdout
    *lines, empty, last = done.stdout.splitlines()
    assert len(lines) == 11
    assert all(line.startswith(("✓ ", "! ")) for line in lines)
    assert lines[1].startswith('✓ token: "Sandbox token" of sandbox')
    assert empty == ""
    assert last.startswith("Ready: run make dev")
    assert "Traceback" not in done.stderr
    secrets = sandbox.buildkite_token, sandbox.honeycomb_key
    assert not any(secret in done.stdout + done.stderr for secret in secrets)


def test_exit_status_2_names_the_setting(call):
    done = call("doctor", BUILDKITE_API_TOKEN="bkua_1")
    assert done.returncode == 2
    assert "✗ token: BUILDKITE_ORGANIZATION_SLUG is not set." in done.stdout
    assert "· organization: skipped because token failed" in done.stdout
    assert done.stdout.endswith("1 check failed. Fix it, then run bk-pipeline doctor again.\n")
