"""Generates months of builds with known changes, for `benchmarks.changes` and its tests.

Builds arrive by hour and weekday, and so do waits; times are lognormal with hours and days of
their own, outliers, outages of hours, slow trends and branches whose share shifts; failures come
in streaks. Nothing depends on today's date: the same seed gives the same year.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from bk_pipeline.analysis.change import Change
from bk_pipeline.analysis.changes import changes_in

Array = np.ndarray[Any, Any]
NS_PER_S, HOUR_S, DAY_S = 1_000_000_000, 3_600, 86_400
FIRST_S = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())  # a Monday
DAYS, MONTHS = 30, 12
KINDS = ("duration_s", "queue_s", "failure_rate")
SIZES = {
    "duration_s": (0.1, 0.2, 0.3, 0.5),
    "queue_s": (0.1, 0.2, 0.3, 0.5),
    "failure_rate": (0.05, 0.1, 0.2, 0.3),  # points
}
# Builds on a working day of each pipeline of a month.
VOLUMES = (8, 25, 80, 250, 600)
SERIES_PER_PIPELINE = 4
# Share of a day's builds by hour, UTC, on working days.
RHYTHM = np.array([1, 1, 1, 1, 1, 2, 4, 8, 10, 11, 10, 8, 9, 11, 11, 9, 7, 5, 3, 2, 2, 1, 1, 1.0])
WEEKEND, SATURDAY = 0.12, 5
OUTLIERS, STREAK_FAILURES = 0.01, 0.6


@dataclass(frozen=True, slots=True)
class Injected:
    """A change that is in the data: from build `number` on."""

    pipeline: str
    step: str | None
    measure: str
    size: float
    number: int
    at_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Month:
    """Observations as `changes.sql` returns them, and the truth."""

    table: pa.Table
    injected: list[Injected]


def year(seed: int, *, changed: float, months: int = MONTHS) -> Iterator[Month]:
    """Yield the months of a year; `changed` is the share of series and measures with a change."""
    random = np.random.default_rng(seed)
    for number in range(months):
        yield month(random, first_s=FIRST_S + number * DAYS * DAY_S, changed=changed)


def month(random: np.random.Generator, *, first_s: int, changed: float) -> Month:
    """Return one month."""
    tables, injected = [], []
    for at, volume in enumerate(VOLUMES):
        times = arrivals(random, first_s, volume)
        branches = _branches(random, times)
        for index in range(SERIES_PER_PIPELINE):
            name, step = f"pipeline-{at}", f"step-{index}" if index else None
            columns = {}
            for kind in KINDS:
                effect = np.zeros(len(times))
                if random.random() < changed:
                    size = random.choice(SIZES[kind]) * random.choice((1, 1, 1, -1))
                    first = _first(random, times)
                    effect[first:] = size
                    injected.append(
                        Injected(name, step, kind, size, first + 1, times[first], times[-1])
                    )
                columns[kind] = GENERATORS[kind](random, times, branches, effect)
            tables.append(observations(name, step, times, branches, columns))
    return Month(pa.concat_tables(tables), injected)


def arrivals(random: np.random.Generator, first_s: int, volume: float, days: int = DAYS) -> Array:
    """Return the sorted times of builds in Unix seconds, `volume` on a working day."""
    hours = np.arange(days * 24)
    weekend = (first_s // DAY_S + hours // 24 + 3) % 7 >= SATURDAY
    rates = volume * RHYTHM[hours % 24] / RHYTHM.sum() * np.where(weekend, WEEKEND, 1.0)
    counts = random.poisson(rates * random.lognormal(0, 0.2, len(hours)))
    starts = np.repeat(first_s + hours * HOUR_S, counts)
    return np.sort(starts + random.random(len(starts)) * HOUR_S)


def _first(random: np.random.Generator, times: Array) -> int:
    """Return the index of the first changed build: 4 days or more from both ends."""
    span = times[-1] - times[0]
    at = times[0] + span * random.uniform(4 / DAYS, 1 - 4 / DAYS)
    return int(np.searchsorted(times, at))


def _branches(random: np.random.Generator, times: Array) -> Array:
    """Return a branch per build. The share of main moves once in the month."""
    shares = random.uniform(0.15, 0.5, 2)
    moved = np.arange(len(times)) >= random.integers(0, len(times))
    main = random.random(len(times)) < np.where(moved, *shares)
    others = random.integers(0, 1 + len(times) // 6, len(times)).astype(str)
    found: Array = np.where(main, "main", np.char.add("feature/", others))
    return found


def _hours(random: np.random.Generator, times: Array, sd: float, days_sd: float) -> Array:
    """Return noise that builds of the same hours and days share."""
    hour = ((times - times[0]) // HOUR_S).astype(int)
    steps = random.normal(0, sd * np.sqrt(1 - 0.7**2), hour[-1] + 1)
    for at in range(1, len(steps)):
        steps[at] += 0.7 * steps[at - 1]
    day = ((times - times[0]) // DAY_S).astype(int)
    found: Array = steps[hour] + random.normal(0, days_sd, day[-1] + 1)[day]
    return found


def _outages(random: np.random.Generator, times: Array, factor: float) -> Array:
    """Return zeros, and the logarithm of `factor` in one outage of 1 to 12 hours."""
    begin = random.uniform(times[0], times[-1])
    out = (times >= begin) & (times < begin + random.uniform(1, 12) * HOUR_S)
    return np.where(out, np.log(factor), 0.0)


def _load(times: Array, height: float) -> Array:
    """Return how much slower work hours are, as a logarithm."""
    hour = (times // HOUR_S % 24).astype(int)
    weekend = (times // DAY_S + 3) % 7 >= SATURDAY
    found: Array = height * RHYTHM[hour] / RHYTHM.max() * np.where(weekend, 0.3, 1.0)
    return found


def durations(random: np.random.Generator, times: Array, branches: Array, effect: Array) -> Array:
    """Return durations in seconds, changed by the factor `1 + effect`."""
    logs = np.log(random.uniform(60, 1_500)) + random.normal(
        0, random.uniform(0.05, 0.3), len(times)
    )
    logs += _hours(random, times, 0.04, 0.02) + _load(times, random.uniform(0, 0.25))
    logs += np.where(branches == "main", random.uniform(-0.2, 0.3), 0.0)
    logs += random.normal(0, 0.03) * np.linspace(0, 1, len(times))  # a slow trend
    logs += _outages(random, times, random.uniform(1.5, 4))
    logs += np.where(random.random(len(times)) < OUTLIERS, random.uniform(1, 2, len(times)), 0.0)
    found: Array = np.exp(logs) * (1 + effect)
    return found


def queue_times(
    random: np.random.Generator, times: Array, _branches: Array, effect: Array
) -> Array:
    """Return waits in seconds, changed by the factor `1 + effect`."""
    logs = np.log(random.uniform(10, 120)) + _load(times, random.uniform(0.5, 1.5))
    logs += _hours(random, times, 0.2, 0.08) + _outages(random, times, random.uniform(3, 20))
    waits = np.exp(logs) * random.gamma(2, 0.5, len(times))
    found: Array = waits * (1 + effect)
    return found


def failures(random: np.random.Generator, times: Array, branches: Array, effect: Array) -> Array:
    """Return 1.0 for builds that failed. Some failures come in streaks: a broken main branch."""
    rates = random.uniform(0.02, 0.2) + np.where(branches == "main", -0.02, random.uniform(0, 0.1))
    failed = random.random(len(times)) < np.clip(rates + effect, 0.0, 1.0)
    for _ in range(random.poisson(3)):
        begin = random.uniform(times[0], times[-1])
        streak = (times >= begin) & (times < begin + random.exponential(2) * HOUR_S)
        failed |= streak & (random.random(len(times)) < STREAK_FAILURES)
    return failed.astype(float)


GENERATORS = {"duration_s": durations, "queue_s": queue_times, "failure_rate": failures}


def observations(
    pipeline: str,
    step: str | None,
    times: Array,
    branches: Array,
    columns: dict[str, Array],
) -> pa.Table:
    """Return the rows of one series; measures that `columns` lacks are null."""
    rows = len(times)
    numbers = np.arange(1, rows + 1)
    failed = columns.get("failure_rate", np.full(rows, np.nan))
    values = {
        "duration_s": np.where(
            failed == 1, np.nan, columns.get("duration_s", np.full(rows, np.nan))
        ),
        "queue_s": columns.get("queue_s", np.full(rows, np.nan)),
        "failed": failed,
        "cost": np.full(rows, np.nan),
    }
    return pa.table(
        {
            "pipeline": pa.array([pipeline] * rows, pa.string()),
            "step": pa.array([step] * rows, pa.string()),
            "created_at": pa.array((times * NS_PER_S).astype("int64")).cast(
                pa.timestamp("ns", "UTC")
            ),
            "number": numbers,
            "branch": pa.array(branches.tolist(), pa.string()),
            "commit": pa.array([f"{at:040x}" for at in numbers], pa.string()),
            "build_id": pa.array([f"{pipeline}-{at}" for at in numbers], pa.string()),
            "url": pa.array(
                [f"https://buildkite.com/acme/{pipeline}/builds/{at}" for at in numbers]
            ),
            **{
                name: pa.array(column, pa.float64(), from_pandas=True)
                for name, column in values.items()
            },
        }
    )


# A change is found if one in the same series and direction is reported within this time of it. The
# error of the first build is a figure of its own.
NEAR_S = 5 * DAY_S


@dataclass(frozen=True, slots=True)
class Case:
    """An injected change, and by how many builds the reported first one is off, if it was found."""

    injected: Injected
    volume: int
    off_by: int | None


@dataclass(frozen=True, slots=True)
class Score:
    """The injected changes, and the number of reported ones that match none."""

    cases: list[Case]
    false_alarms: list[Change]

    @property
    def precision(self) -> float:
        """The share of the reported changes that are real."""
        found = sum(one.off_by is not None for one in self.cases)
        return found / max(1, found + len(self.false_alarms))

    def of(self, measure: str, *, at_least: float = 0.0, volume: int = 0) -> list[Case]:
        """Return the cases of a measure, of a size and a number of builds a day or more."""
        return [
            one
            for one in self.cases
            if one.injected.measure == measure
            and abs(one.injected.size) >= at_least - 1e-9
            and one.volume >= volume
        ]

    def recall(self, measure: str, *, at_least: float = 0.0, volume: int = 0) -> float:
        """Return the share of such changes that was found."""
        cases = self.of(measure, at_least=at_least, volume=volume)
        return sum(one.off_by is not None for one in cases) / max(1, len(cases))


def scored(months: Iterable[Month]) -> Score:
    """Look for changes in each month, and compare with the truth."""
    total = Score([], [])
    for one in months:
        left = changes_in(one.table)
        for injected in one.injected:
            match = next((found for found in left if _matches(found, injected)), None)
            if match is not None:
                left.remove(match)
            off_by = None if match is None else abs(match.number - injected.number)
            volume = VOLUMES[int(injected.pipeline.removeprefix("pipeline-"))]
            total.cases.append(Case(injected, volume, off_by))
        total.false_alarms.extend(left)
    return total


def _matches(found: Change, injected: Injected) -> bool:
    return (found.pipeline, found.step, found.measure, found.worse) == (
        injected.pipeline,
        injected.step,
        injected.measure,
        injected.size > 0,
    ) and abs(found.began_at.timestamp() - injected.at_s) <= NEAR_S
