from __future__ import annotations

import json

from bk_pipeline_tests.cli.program import run


def test_json_output_is_a_single_object(tmp_path):
    done = run("demo", "--days", "2", "--builds-per-day", "15", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert set(numbers) == {
        "days",
        "builds",
        "jobs",
        "spans",
        "events_accepted",
        "events_rejected",
        "duplicates",
        "requests",
        "seconds",
    }
    assert len(done.stdout.splitlines()) == 1
    assert numbers["days"] == 2
    assert numbers["builds"] > 5
    assert numbers["events_accepted"] >= numbers["spans"] > numbers["jobs"] > numbers["builds"]
    assert numbers["events_rejected"] == numbers["duplicates"] == 0


def test_demo_ends_with_a_waterfall_and_leaves_no_files(tmp_path):
    # The user's own settings, which select no pipeline, have no effect.
    done = run(
        "demo", "--days", "1", cwd=tmp_path, BK_PIPELINE_PIPELINES="nothing", BUILDKITE_API_URL="x"
    )
    assert done.returncode == 0, done.stderr
    assert "accepted" in done.stdout
    assert "█" in done.stdout
    assert "stage 1" in done.stdout
    assert list(tmp_path.iterdir()) == []
