"""The numbers of a day, a week and a month: the same as the statistics, and counted by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from bk_pipeline.analysis.change import Change
from bk_pipeline.analysis.frames import COLUMNS
from bk_pipeline.analysis.period import Period
from bk_pipeline.analysis.summary import summarize
from bk_pipeline_tests.builders import make_build, make_job, uid
from bk_pipeline_tests.report.made import UTC as UTC_ZONE
from bk_pipeline_tests.report.made import day_of, spans_of, stats_of
from bk_pipeline_tests.worlds import span_table

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = date(2026, 3, 2)


def build(name, *, created="2026-03-02T09:00:00.000Z", jobs=(), **fields):
    return make_build(list(jobs), id=uid(f"build {name}"), created_at=created, **fields)


def test_the_numbers_of_a_day_are_those_of_its_statistics():
    table, day = span_table(seed=3, builds=80), "2024-02-15"
    stats = summarize(day, [table.select(list(COLUMNS))])
    made = stats_of({day: table}, day_of(day))
    for column in (
        *("builds", "passed", "failed", "canceled", "blocked", "other", "failure_rate", "retries"),
        *(f"{what}_p{share}_s" for what in ("duration", "queue") for share in (50, 90, 99)),
        *("jobs", "flaky_failures", "agent_minutes"),
    ):
        assert made.total[column] == pytest.approx(stats.totals[column]), column
    pipelines = {row["pipeline"]: row for row in made.pipelines}
    for row in stats.pipelines.to_dict("records"):
        found = pipelines[row["pipeline"]]
        for column in ("builds", "failed", "duration_p90_s", "agent_minutes", "retries"):
            assert found[column] == pytest.approx(row[column], nan_ok=True)
    steps = {(row["pipeline"], row["step"]): row for row in made.steps}
    for row in stats.steps.to_dict("records"):
        found = steps[row["pipeline"], row["step"]]
        for column in ("jobs", "failures", "soft_failures", "retries", "agent_minutes"):
            assert found[column] == pytest.approx(row[column]), column
    queues = {row["queue"]: row for row in made.queues if row["cluster"] is None}
    for row in stats.queues[stats.queues["cluster"].isna()].to_dict("records"):
        for column in ("jobs", "never_started", "wait_p90_s", "wait_max_s", "waited_minutes"):
            assert queues[row["queue"]][column] == pytest.approx(row[column]), column


def test_a_week_is_compared_with_the_week_before_if_that_is_stored():
    days = {
        "2026-02-23": spans_of(build("old", created="2026-02-23T09:00:00.000Z", state="failed")),
        "2026-03-02": spans_of(build("new")),
    }
    week = Period.ending("week", date(2026, 3, 8), UTC_ZONE)
    assert (week.first, week.days) == (MONDAY, 7)
    found = stats_of(days, week, first_stored=date(2026, 2, 23))
    assert (found.total["builds"], found.total["failure_rate"]) == (1, 0)
    assert (found.before["builds"], found.before["failure_rate"]) == (1, 1)
    assert stats_of(days, week, first_stored=date(2026, 2, 24)).before is None
    assert stats_of(days, week).before is None
    # A day is compared with none.
    assert stats_of(days, day_of("2026-03-02"), first_stored=date(2026, 1, 1)).before is None


def test_a_period_without_builds_has_no_total():
    days = {"2026-02-01": spans_of(build("old", created="2026-02-01T09:00:00.000Z"))}
    found = stats_of(days, Period.ending("week", date(2026, 3, 8), UTC_ZONE))
    assert found.total is None
    assert found.pipelines == found.steps == found.queues == found.slowest == []
    assert not found.slots


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-03-02", "Asia/Kolkata", 24),
    ],
)
def test_hours_are_counted_from_the_start_of_the_day(day, zone, hours):
    period = day_of(day, zone)
    assert len(period.slots) == hours
    last = period.slots[-1].strftime("%Y-%m-%dT%H:%M:%S.000Z")
    first = period.start.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    table = spans_of(build("first", created=first), build("last", created=last))
    assert set(stats_of({day: table}, period).slots) == {0, hours - 1}


def test_a_week_in_which_clocks_change_has_seven_days():
    week = Period.ending("week", date(2026, 3, 31), BERLIN)
    assert [f"{at:%d %H}" for at in week.slots] == [
        *("24 23", "25 23", "26 23", "27 23", "28 23", "29 22", "30 22")
    ]
    assert week.end == datetime(2026, 3, 31, 22, tzinfo=UTC)


def test_waits_are_by_weekday_and_hour_of_the_zone():
    # It begins to wait on Monday at 23:11 UTC, which is Tuesday in Berlin.
    job = make_job("test", created_s=51_000, runnable_s=51_060, wait_s=90)
    table = spans_of(build("late", created="2026-03-02T23:10:00.000Z", jobs=[job]))
    shifted = stats_of({"2026-03-02": table}, Period.ending("week", date(2026, 3, 3), BERLIN))
    plain = stats_of({"2026-03-02": table}, Period.ending("week", date(2026, 3, 3), UTC_ZONE))
    [row], [other] = shifted.waits, plain.waits
    assert (other["weekday"], other["hour"], other["jobs"]) == (1, 23, 1)
    assert (row["weekday"], row["hour"]) == (2, 0)
    assert row["wait_p90_s"] == pytest.approx(90)


def test_pipelines_of_several_organizations_are_told_apart():
    here = build("here")
    url = "https://api.buildkite.com/v2/organizations/other/pipelines/shop/builds/7"
    there = build("there", url=url)
    found = stats_of({"2026-03-02": spans_of(here, there)}, day_of("2026-03-02"))
    assert {row["pipeline"] for row in found.pipelines} == {"acme/shop", "other/shop"}


def test_only_changes_that_began_in_the_period_count():
    def change(day):
        began = datetime(2026, 3, day, 12, tzinfo=UTC)
        values = ("shop", None, "duration_s", 60.0, 90.0, 0.5, 0.99, began, 7)
        return Change(*values, None, None, None, None, 20, 20, None, "rank test")

    days = {"2026-03-05": spans_of(build("one", created="2026-03-05T09:00:00.000Z"))}
    week = Period.ending("week", date(2026, 3, 8), UTC_ZONE)
    found = stats_of(days, week, changes=[change(1), change(2), change(8), change(9)])
    assert [one.began_at.day for one in found.changes] == [2, 8]
