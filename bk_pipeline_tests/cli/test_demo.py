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


def test_kept_data_answers_questions_and_the_next_demo_replaces_it(tmp_path):
    kept = tmp_path / "kept data"
    for days in ("2", "1"):
        done = run(
            "demo", "--days", days, "--builds-per-day", "15", "--keep", str(kept), cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    assert f"export BK_PIPELINE_DATA_DIR='{kept}'" in done.stdout
    assert len(list(kept.glob("spans/*"))) == 1
    assert kept.stat().st_mode & 0o077 == 0
    [trace] = [line.split() for line in done.stdout.splitlines() if "bk-pipeline trace" in line]
    answer = run("trace", trace[2], cwd=tmp_path, BK_PIPELINE_DATA_DIR=str(kept))
    assert answer.returncode == 0, answer.stderr
    assert "Critical path" in answer.stdout


def test_the_default_demo_shows_what_got_slower(tmp_path):
    """A step of the demo's world became slower twelve days ago, whatever day it is."""
    kept = tmp_path / "kept"
    done = run("demo", "--keep", str(kept), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [command] = [line for line in done.stdout.splitlines() if "what got slower" in line]
    answer = run(command.split()[1], cwd=tmp_path, BK_PIPELINE_DATA_DIR=str(kept))
    assert answer.returncode == 0, answer.stderr
    sentence, *table = answer.stdout.splitlines()
    assert "the largest: api / test takes " in sentence
    assert " longer since build #" in sentence
    assert any(line.split()[:3] == ["api", "/", "test"] for line in table)


def test_demo_replaces_no_other_files(tmp_path):
    (tmp_path / "notes").write_text("mine")
    done = run("demo", "--days", "1", "--keep", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "no demo made" in done.stderr
    assert (tmp_path / "notes").read_text() == "mine"
