from __future__ import annotations

import io

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.worlds import recent_world


@pytest.fixture
def delivered(tmp_path, call):
    """A day of which Honeycomb rejected two root spans."""
    sandbox = Sandbox(recent_world(days=1, builds_per_day=10))
    with running(sandbox) as url:
        settings = environment(sandbox, url) | {"BK_PIPELINE_DATA_DIR": str(tmp_path / "data")}
        day = sandbox.world.first_and_last_day()[0].isoformat()
        sandbox.faults.inject("honeycomb", "event_status", status=400, indexes=[0, 1])

        def backfill():
            done = call("backfill", "--from", day, "--to", day, **settings)
            assert done.returncode == 0, done.stderr
            return done

        def ledger(*arguments):
            return call("ledger", *arguments, **settings)

        assert ", 2 rejected, " in backfill().stdout
        yield sandbox, day, backfill, ledger


def test_rejected_items_are_listed_requeued_and_sent_again(delivered, monkeypatch):
    sandbox, day, backfill, ledger = delivered
    stored = sandbox.honeycomb.event_count

    listed = ledger().stdout.splitlines()[1].split()
    destination = listed[0]
    assert destination.startswith("honeycomb:127.0.0.1")
    assert [int(count.replace(",", "")) for count in listed[1:5]] == [stored, 2, 0, 0]

    rows = ledger("rejected", destination).stdout.splitlines()
    assert len(rows) == 2
    assert all(row.split("\t")[0] == day for row in rows)
    trace = rows[0].split("\t")[1]
    build = f"{trace[:8]}-{trace[8:12]}-{trace[12:16]}-{trace[16:20]}-{trace[20:]}"
    assert rows[0] in ledger("rejected", destination, "--build", build).stdout.splitlines()

    backfill()
    assert sandbox.honeycomb.event_count == stored
    requeued = ledger("requeue", destination, "--day", day)
    assert requeued.stdout.startswith("2 items will be sent again")
    backfill()
    assert sandbox.honeycomb.event_count == stored + 2
    assert sandbox.honeycomb.duplicate_count == 0

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert ledger("forget", destination).returncode == 1
    assert ledger("forget", destination, "--yes").returncode == 0
    assert destination not in ledger().stdout


def test_unknown_destination_and_missing_filter_are_usage_errors(delivered):
    *_, ledger = delivered
    destination = ledger().stdout.splitlines()[1].split()[0]
    unknown = ledger("rejected", "nowhere")
    assert unknown.returncode == 2
    assert f"It has: {destination}." in unknown.stderr
    without_filter = ledger("requeue", destination)
    assert without_filter.returncode == 2
    assert "--all" in without_filter.stderr


def test_reading_does_not_create_a_ledger(tmp_path, call):
    done = call("ledger")
    assert done.returncode == 1
    assert "nothing has been delivered from here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_ledger_stops_a_backfill_until_adopted_or_resent(tmp_path, call):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=10))
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
