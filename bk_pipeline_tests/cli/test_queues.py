from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from bk_pipeline.cli.queues import change_of
from bk_pipeline.errors import ConfigError
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.builders import make_agent, make_build, make_job, uid
from bk_pipeline_tests.cli.test_sql import store_part


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    """The data directory of a week whose jobs wait for a limited number of agents."""
    folder = tmp_path_factory.mktemp("queues")
    world = World(1, 6, 40, date(2026, 11, 20), limited_agents=True)
    for number in range(7):
        day = date(2026, 11, 14) + timedelta(days=number)
        found = [build_as_of(one, one.created_ms + 30 * 86_400_000) for one in world.builds(day)]
        store_part(folder, day, [one for one in found if one["finished_at"]])
    return str(folder)


@pytest.fixture
def asked(call, week):
    def ask(*options, **environment):
        return call("queues", *options, **{"BK_PIPELINE_DATA_DIR": week, **environment})

    return ask


def test_the_bottleneck_is_named_first(asked):
    done = asked()
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("Queue macos is the bottleneck: its p95 wait is 5 m ")
    assert " between " in first
    assert "(UTC), its agents are busy" in first
    assert max(map(len, done.stdout.splitlines()[2:])) <= 120
    assert "no cluster/default" in done.stdout


def test_more_agents_help_and_it_says_how_much(asked):
    done = asked("--queue", "macos", "--agents", "+2")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("With 2 more agents in macos, the p95 wait falls from 5 m 31 s to ")
    assert "the median build ends" in lines[0]
    assert "sooner" in lines[0]
    assert "critical path of a build waits for agents for" in lines[1]
    assert "differs from it by 0.1 % of the waits" in lines[2]
    [row] = json.loads(asked("--queue", "macos", "--agents", "+2", "--format", "json").stdout)
    assert (row["agents"], row["agents_changed"]) == (2, 4)
    assert row["error"] < 0.05
    assert row["wait_p95_changed_s"] < 60 < row["wait_p95_recorded_s"]
    assert row["path_wait_changed_s"] < row["path_wait_replayed_s"]


def test_it_says_if_more_agents_would_not_help(asked):
    done = asked("--queue", "arm", "--agents", "+10")
    assert done.stdout.startswith("It would make no difference: with 10 more agents in arm, ")
    assert "not for a free agent" in done.stdout.splitlines()[0]


def test_fewer_agents_make_waits_longer(asked):
    first = asked("--queue", "macos", "--agents", "1").stdout.splitlines()[0]
    assert "the p95 wait rises from" in first
    assert "later" in first


def test_hours_are_in_the_time_zone_of_the_settings(asked):
    def hours(**environment):
        done = asked("--by", "date-hour", "--queue", "gpu", "--format", "json", **environment)
        return [row["slot"] for row in json.loads(done.stdout)]

    utc, india = hours(), hours(BK_PIPELINE_TIMEZONE="Asia/Kolkata")
    assert len(utc) == len(india)
    assert min(utc) != min(india)
    assert all(slot.endswith(":00") for slot in utc)
    assert all(slot.endswith(":30") for slot in india)


def test_nothing_found_says_what_there_is(asked):
    assert "Queues from 2026-10-22 to 2026-11-20: arm, default," in asked("--queue", "x").stdout
    done = asked("--since", "2020-01-01", "--until", "2020-01-02")
    assert done.stdout.startswith("No job waited or ran from 2020-01-01 to 2020-01-02.")
    assert json.loads(asked("--queue", "x", "--format", "json").stdout) == []
    assert json.loads(asked("--queue", "x", "--agents", "3", "--format", "json").stdout) == []


def test_an_empty_store_and_wrong_options_are_refused(asked, tmp_path):
    assert "no stored spans" in asked(BK_PIPELINE_DATA_DIR=str(tmp_path)).stderr
    assert asked("--agents", "+2", "--by", "hour").returncode == 2
    assert asked("--since", "2026-11-20", "--until", "2026-11-19").returncode == 2


@pytest.mark.parametrize("text", ["", "0", "+0", "10%", "-100%", "+-1", "ten", "1.5", "٣"])
def test_a_change_without_meaning_is_refused(text):
    with pytest.raises(ConfigError, match="--agents takes"):
        change_of(text)


@pytest.mark.parametrize(
    ("text", "levels", "words"),
    [
        ("+10", (10, 14), "10 more agents"),
        ("-5", (0, 0), "5 fewer agents"),
        ("+1", (1, 5), "1 more agent"),
        ("20", (20, 20), "20 agents"),
        ("+50%", (0, 6), "50 % more agents"),
        ("-50%", (0, 2), "50 % fewer agents"),
    ],
)
def test_changes(text, levels, words):
    change = change_of(text)
    assert (change.of(0), change.of(4)) == levels
    assert change.words == words


def test_numbers_of_an_hour_are_those_computed_by_hand(call, tmp_path):
    # Builds begin at 09:00 UTC. One agent runs 50 minutes, then a job that waited 40 runs 20.
    long = make_job("long", runnable_s=0, wait_s=0, run_s=3000, agent=make_agent("a"))
    late = make_job("late", runnable_s=600, wait_s=2400, run_s=1200, agent=make_agent("a"))
    store_part(tmp_path, "2026-03-02", [make_build([long, late], id=uid("build 1"))])
    done = call(
        "queues", "--by", "date-hour", "--format", "json", BK_PIPELINE_DATA_DIR=str(tmp_path)
    )
    nine, ten = sorted(json.loads(done.stdout), key=lambda row: row["slot"])
    assert (nine["slot"], ten["slot"]) == ("2026-03-02 09:00", "2026-03-02 10:00")
    assert (nine["arrivals"], ten["arrivals"]) == (2, 0)
    assert nine["waiting"] == pytest.approx(2400 / 3600)
    assert nine["running"] == nine["agents"] == nine["utilization"] == pytest.approx(1)
    assert ten["running"] == pytest.approx(600 / 3600)
    assert ten["utilization"] == pytest.approx(1)
    assert (nine["waiting_max"], nine["running_max"], ten["running_max"]) == (1, 1, 1)
    assert nine["wait_p95_s"] == pytest.approx(0.95 * 2400)
    assert ten["wait_p95_s"] is None


def test_time_under_a_concurrency_limit_is_not_a_wait_for_agents(call, tmp_path):
    job = make_job("limited", runnable_s=0, wait_s=100, run_s=10, concurrency_wait_time_ms=90_000)
    store_part(tmp_path, "2026-03-02", [make_build([job])])
    [row] = json.loads(
        call("queues", "--format", "json", BK_PIPELINE_DATA_DIR=str(tmp_path)).stdout
    )
    assert row["wait_p50_s"] == pytest.approx(10)
