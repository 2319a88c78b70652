"""Changes are found where they are, and not where there are none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from benchmarks.changes_world import (
    DAY_S,
    FIRST_S,
    HOUR_S,
    arrivals,
    month,
    observations,
    scored,
    year,
)
from bk_pipeline.analysis.change import Change, change_of, row_of, with_first_builds
from bk_pipeline.analysis.changes import changes_in
from bk_pipeline.analysis.columns import CHANGES


def series(values, times, *, branches=None, measure="duration_s", pipeline="web", step="test"):
    names = np.full(len(times), "main") if branches is None else branches
    return observations(pipeline, step, times, names, {measure: values})


def builds(volume=80, seed=3):
    random = np.random.default_rng(seed)
    return random, arrivals(random, FIRST_S, volume)


def noise(random, times, sd=0.1):
    return np.exp(random.normal(0, sd, len(times)))


def test_most_changes_are_found_and_few_others():
    """The table in docs/changes.md is about whole years; this is a part of one."""
    random = np.random.default_rng(11)
    total = scored(month(random, first_s=FIRST_S, changed=0.5) for _ in range(3))
    assert total.precision >= 0.95
    assert total.recall("duration_s", at_least=0.2, volume=80) >= 0.85
    assert total.recall("failure_rate", at_least=0.2, volume=80) >= 0.85
    assert total.recall("queue_s", at_least=0.5, volume=250) >= 0.5


def test_months_without_a_change_have_none():
    found = [
        {(at, one.pipeline, one.step, one.measure) for one in changes_in(month.table)}
        for at, month in enumerate(year(2, changed=0.0, months=4))
    ]
    assert sum(map(len, found)) <= 1  # of 240 series


@pytest.mark.parametrize("factor", [1.2, 1.5, 0.7])
def test_first_build_is_within_a_few_builds(factor):
    random, times = builds()
    first = len(times) * 2 // 3
    values = 300 * noise(random, times)
    values[first:] *= factor
    [change] = changes_in(series(values, times))
    assert abs(change.number - (first + 1)) <= 5
    assert change.worse == (factor > 1)
    assert change.change == pytest.approx(factor - 1, abs=0.03)
    assert (change.pipeline, change.step, change.measure) == ("web", "test", "duration_s")
    assert change.builds_before == change.number - 1
    assert change.builds_after == len(times) - change.builds_before
    assert change.recovered_at is None
    assert "PELT" in change.decided_by
    assert "Mann-Whitney" in change.decided_by


@pytest.mark.parametrize("after_hours", [84, 110])
def test_first_build_is_exact_with_few_builds_after_it(after_hours):
    """The change point on ranks is early then: the last blocks before rank next to those after."""
    random = np.random.default_rng(8)
    for _ in range(10):
        times = FIRST_S + np.arange(269 + after_hours) * float(HOUR_S)
        values = 300 * noise(random, times, 0.05)
        values[269:] *= 1.5
        [change] = changes_in(series(values, times))
        assert abs(change.number - 270) <= 1


@pytest.mark.parametrize("factor", [1.25, 1.5])
def test_a_slow_trend_is_no_change(factor):
    found = 0
    for seed in range(12):
        random, times = builds(seed=seed)
        trend = 300 * noise(random, times) * np.linspace(1, factor, len(times))
        found += bool(changes_in(series(trend, times)))
    assert found <= 1


def test_a_small_pipeline_shows_its_change():
    """Eight builds on a working day; blocks of three builds would be too few."""
    found = 0
    for seed in range(10):
        random, times = builds(8, seed)
        values = 300 * noise(random, times, 0.15)
        values[len(times) // 2 :] *= 1.25
        found += bool(changes_in(series(values, times)))
    assert found >= 9


def test_an_outage_of_hours_is_no_change():
    random, times = builds(250)
    values = 300 * noise(random, times)
    begin = FIRST_S + 10 * DAY_S + 8 * HOUR_S
    values[(times >= begin) & (times < begin + 10 * HOUR_S)] *= 5
    assert changes_in(series(values, times)) == []


def test_an_outage_of_days_is_a_change_that_recovered():
    random, times = builds(250)
    values = 300 * noise(random, times)
    begin = FIRST_S + 8 * DAY_S
    values[(times >= begin) & (times < begin + 4 * DAY_S)] *= 3
    worse = [one for one in changes_in(series(values, times)) if one.worse]
    assert len(worse) == 1
    assert worse[0].recovered_at is not None
    assert not worse[0].lasts


def test_another_mix_of_branches_is_no_change():
    random, times = builds(250)
    main = random.random(len(times)) < np.where(np.arange(len(times)) < len(times) // 2, 0.2, 0.7)
    values = 200 * noise(random, times) * np.where(main, 1.5, 1.0)
    branches = np.where(main, "main", "feature")
    assert changes_in(series(values, times, branches=branches)) == []
    # Without the branches, it looks like one.
    assert len(changes_in(series(values, times))) == 1


def test_weekends_and_hours_are_no_changes():
    random, times = builds(250)
    quiet = ((times // DAY_S + 3) % 7 >= 5) | (times // HOUR_S % 24 < 7)
    values = 300 * noise(random, times) * np.where(quiet, 0.5, 1.0)
    for zone in (UTC, ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin")):
        assert changes_in(series(values, times), zone=zone) == []


def test_streaks_of_failures_are_no_change_of_the_rate():
    random, times = builds(250)
    failed = random.random(len(times)) < 0.1
    begin = FIRST_S + 15 * DAY_S + 9 * HOUR_S
    failed |= (times >= begin) & (times < begin + 6 * HOUR_S)
    assert changes_in(series(failed.astype(float), times, measure="failure_rate")) == []
    failed[len(times) // 2 :] |= random.random(len(times) - len(times) // 2) < 0.15
    [change] = changes_in(series(failed.astype(float), times, measure="failure_rate"))
    assert change.change == pytest.approx(0.14, abs=0.05)


def test_too_small_a_difference_is_not_reported():
    random, times = builds(600)
    values = 10 * noise(random, times, 0.02)
    values[len(times) // 2 :] *= 1.3  # three seconds
    assert changes_in(series(values, times)) == []


@pytest.mark.parametrize("value", [0.0, 300.0, np.nan])
@pytest.mark.parametrize("rows", [0, 1, 39, 500])
def test_nothing_to_find(value, rows):
    times = FIRST_S + np.arange(rows) * HOUR_S
    assert changes_in(series(np.full(rows, value), times.astype(float))) == []


def test_builds_of_one_second():
    times = np.full(500, float(FIRST_S))
    assert changes_in(series(np.linspace(1, 1000, 500), times)) == []


def test_a_step_between_constants_is_exact():
    times = (FIRST_S + np.arange(700) * HOUR_S).astype(float)
    values = np.where(np.arange(700) < 400, 0.0, 60.0)
    [change] = changes_in(series(values, times, measure="queue_s"))
    assert (change.number, change.before, change.after) == (401, 0.0, pytest.approx(60.0))


EXAMPLE = Change(
    pipeline="web",
    step="test",
    measure="duration_s",
    before=312.0,
    after=401.0,
    change=401 / 312 - 1,
    confidence=0.999,
    began_at=datetime(2026, 11, 24, 14, 2, tzinfo=UTC),
    number=4182,
    commit="abc1234def",
    branch="main",
    build_id="b",
    url="https://buildkite.com/acme/web/builds/4182",
    builds_before=300,
    builds_after=80,
    recovered_at=None,
    decided_by="PELT",
)


def test_sentences():
    assert EXAMPLE.sentence == (
        "web / test takes 29 % longer since build #4182 (abc1234, Tue 24 Nov 14:02 UTC)"
    )
    rate = replace(
        EXAMPLE, measure="failure_rate", step=None, before=0.15, after=0.03, change=-0.12
    )
    assert f"{rate.subject} {rate.effect}: {rate.values}" == (
        "web fails 12 points less often: 15.0 % → 3.0 %"
    )
    odd = replace(EXAMPLE, pipeline="a\x1b[31m\nb", step=":rocket: " + "x" * 200, commit=None)
    assert odd.subject.isprintable()
    assert len(odd.subject) < 140
    assert "build #4182 (Tue" in odd.since


def test_a_row_holds_all_of_a_change():
    recovered = replace(EXAMPLE, recovered_at=EXAMPLE.began_at + timedelta(days=1))
    for one in (EXAMPLE, recovered):
        row = row_of(one, "2026-11-27")
        assert set(row) == {column.name for column in CHANGES.columns}
        assert change_of(row) == one


def test_a_change_keeps_its_first_build():
    later = replace(
        EXAMPLE, number=4190, began_at=EXAMPLE.began_at + timedelta(hours=9), after=410.0
    )
    assert with_first_builds([later], [EXAMPLE]) == [replace(EXAMPLE, after=410.0)]
    for other in (
        replace(later, step="lint"),
        replace(later, measure="queue_s"),
        replace(later, after=200.0),
        replace(later, began_at=EXAMPLE.began_at + timedelta(days=4)),
    ):
        assert with_first_builds([other], [EXAMPLE]) == [other]
