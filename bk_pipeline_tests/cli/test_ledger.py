from __future__ import annotations

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.cli.program import run
from bk_pipeline_tests.worlds import last_thursday


@pytest.fixture
def delivered(tmp_path):
    """A day of which Honeycomb rejected two root spans."""
    sandbox = Sandbox(World(days=1, builds_per_day=10, today=last_thursday()))
    with running(sandbox) as url:
        settings = environment(sandbox, url)
        day = sandbox.world.first_and_last_day()[0].isoformat()
        sandbox.faults.inject("honeycomb", "event_status", status=400, indexes=[0, 1])

        def backfill():
            done = run("backfill", "--from", day, "--to", day, cwd=tmp_path, **settings)
            assert done.returncode == 0, done.stderr
            return done

        assert ", 2 rejected, " in backfill().stdout
        yield sandbox, settings, day, backfill


def test_the_ledger_is_listed_queried_requeued_and_forgotten(tmp_path, delivered):
    sandbox, settings, day, backfill = delivered
    stored = sandbox.honeycomb.event_count

    listed = run("ledger", cwd=tmp_path, **settings).stdout.splitlines()[1].split()
    destination = listed[0]
    assert destination.startswith("honeycomb:127.0.0.1")
    assert [int(count.replace(",", "")) for count in listed[1:5]] == [stored, 2, 0, 0]

    rows = run("ledger", "rejected", destination, cwd=tmp_path, **settings).stdout.splitlines()
    assert len(rows) == 2
    assert all(row.split("\t")[0] == day for row in rows)
    trace = rows[0].split("\t")[1]
    build = f"{trace[:8]}-{trace[8:12]}-{trace[12:16]}-{trace[16:20]}-{trace[20:]}"
    chosen = run(
        "ledger", "rejected", destination, "--build", build, cwd=tmp_path, **settings
    ).stdout
    assert rows[0] in chosen.splitlines()

    backfill()
    assert sandbox.honeycomb.event_count == stored
    done = run("ledger", "requeue", destination, "--day", day, cwd=tmp_path, **settings)
    assert done.stdout.startswith("2 items will be sent again")
    backfill()
    assert sandbox.honeycomb.event_count == stored + 2
    assert sandbox.honeycomb.duplicate_count == 0

    done = run("ledger", "forget", destination, cwd=tmp_path, stdin="n\n", **settings)
    assert done.returncode == 1
    assert run("ledger", "forget", destination, "--yes", cwd=tmp_path, **settings).returncode == 0
    assert destination not in run("ledger", cwd=tmp_path, **settings).stdout


def test_what_cannot_be_done_is_said(tmp_path, delivered):
    _, settings, *_ = delivered
    destination = run("ledger", cwd=tmp_path, **settings).stdout.splitlines()[1].split()[0]
    unknown = run("ledger", "rejected", "nowhere", cwd=tmp_path, **settings)
    assert unknown.returncode == 2
    assert f"It has: {destination}." in unknown.stderr
    vague = run("ledger", "requeue", destination, cwd=tmp_path, **settings)
    assert vague.returncode == 2
    assert "--all" in vague.stderr


def test_looking_makes_no_ledger(tmp_path):
    done = run("ledger", cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing has been delivered from here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_is_gone_stops_a_backfill_until_a_user_decides(tmp_path, call):
    sandbox = Sandbox(World(days=1, builds_per_day=10, today=last_thursday()))
    with running(sandbox) as url:
        settings = environment(sandbox, url) | {"BK_PIPELINE_DATA_DIR": str(tmp_path / "data")}
        day = sandbox.world.first_and_last_day()[0].isoformat()

        def backfill(*options):
            return call("backfill", "--from", day, "--to", day, *options, **settings)

        def lose_ledger():
            for file in (tmp_path / "data").glob("ledger.sqlite*"):
                if file.is_file():
                    file.unlink()

        assert backfill().returncode == 0
        sent = sandbox.honeycomb.event_count

        lose_ledger()
        refused = backfill()
        assert refused.returncode == 1
        assert "bk-pipeline ledger adopt" in refused.stderr
        assert "--resend" in refused.stderr
        assert sandbox.honeycomb.event_count == sent

        adopted = call("ledger", "adopt", **settings)
        assert adopted.returncode == 0
        assert f"honeycomb_events: {sent:,} items of 1 day marked as delivered." in adopted.stdout
        assert backfill().returncode == 0
        assert sandbox.honeycomb.event_count == sent
        assert sandbox.honeycomb.duplicate_count == 0

        lose_ledger()
        assert backfill("--resend").returncode == 0
        assert sandbox.honeycomb.event_count == 2 * sent

        unknown = call("ledger", "adopt", "nowhere", **settings)
        assert unknown.returncode == 2
        assert "Configured: honeycomb_events." in unknown.stderr
