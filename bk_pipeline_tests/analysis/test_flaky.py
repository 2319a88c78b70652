"""The query of flaky steps, against the statistics' definition and on builds counted by hand."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import date, timedelta

import msgspec
import pyarrow as pa
import pytest

from bk_pipeline.analysis.frames import COLUMNS, frames_of
from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.sql import Database
from bk_pipeline.analysis.summary import flaky, summarize
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import table_of
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore
from bk_pipeline_tests.builders import (
    DAY_S,
    make_build,
    make_job,
    make_pipeline,
    make_retry,
    make_trace,
    uid,
)
from bk_pipeline_tests.insides import insides_of, write_insides

FIRST = date(2026, 3, 2)
ALL = {"since": str(FIRST), "until": str(FIRST + timedelta(days=60)), "by": "all"}


class Store:
    """A span store that tests fill, and its answers."""

    def __init__(self, folder):
        self.spans = SpanStore(Folder(str(folder)))
        self.tables = defaultdict(list)
        self.newest = {}

    def add(self, day, payloads, *, change=lambda table: table):
        number = len(self.tables[str(day)])
        table = change(table_of([make_trace(one) for one in payloads]))
        part = SpanPart(f"2026030{number + 1}T000000.000000Z-00000000", "aaaaaaaa")
        self.spans.write(str(day), part, [table], PartSummary())
        self.tables[str(day)].append(table.select(list(COLUMNS)))
        self.newest[str(day)] = table

    def add_insides(self, day, found, *, number=1):
        """Add what was found in jobs of the part that was added last, by their ids."""
        write_insides(self.spans, str(day), insides_of(self.newest[str(day)], found), number=number)

    def flaky(self, **parameters):
        datasets = self.spans.datasets()
        given = ALL | {"pipeline": "*", "branch": "*"} | parameters
        with Database(datasets.single, datasets.several, memory_mib=512) as database:
            return database.table(query_text("flaky"), given).to_pylist()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def job(name, build_name, **fields):
    return make_job(name, id=uid(f"job {name} {build_name}"), **fields)


def build(name, jobs, **fields):
    return make_build(jobs, id=uid(f"build {name}"), **fields)


def red(name, **fields):
    return build(f"red {name}", [job("test", f"red {name}", state="failed")], **fields)


def green(name, *, after_s=60, **fields):
    return build(f"green {name}", [job("test", f"green {name}", runnable_s=after_s)], **fields)


def only(rows):
    [row] = rows
    return row


def counts(rows):
    return {
        (row["pipeline"], row["step"]): (row["flaky_attempts"], row["flaky_commits"])
        for row in rows
        if row["flaky_attempts"]
    }


def of_frame(frame):
    """The same from a frame of jobs with a column `flaky`."""
    found = frame[frame["command"] & frame["flaky"]].groupby(["pipeline", "step"])["subject"]
    return {
        key: (int(n), int(m))
        for key, n, m in zip(found.size().index, found.size(), found.nunique(), strict=True)
    }


def of_stats(stats):
    rows = stats.steps.to_dict("records")
    return {
        (row["pipeline"], row["step"]): (row["flaky_failures"], row["flaky_commits"])
        for row in rows
        if row["flaky_failures"]
    }


def odd_payloads(chance, day_number):
    """Builds of few commits and steps, so that they have much in common, with odd values."""
    for number in range(40):
        jobs = []
        for attempt in range(chance.randint(0, 4)):
            state = chance.choice(
                ("passed", "passed", "failed", "timed_out", "canceled", "expired")
            )
            name = f"{day_number} {number} {attempt}"
            jobs.append(
                make_job(
                    chance.choice(("unit", "lint", "")),
                    id=uid(f"job {name}"),
                    step_key=chance.choice(("unit", "lint", None)),
                    state=state,
                    runnable_s=day_number * DAY_S + chance.choice((0, 5, 5, 60)),
                    run_s=None if state == "expired" else chance.choice((0, 5, 5.001, 30)),
                    expired_at="2026-03-09T00:00:00.000Z" if state == "expired" else None,
                    exit_status=chance.choice((None, 0, 1, 1, -1, 255)),
                    signal_reason=chance.choice((None, None, "cancel", "agent_stop")),
                    soft_failed=chance.random() < 0.2,
                    parallel_group_index=chance.choice((None, None, 0, 1)),
                    matrix=chance.choice((None, None, {"os": "mac"}, {"os": "linux"})),
                    type=chance.choice(("script", "script", "script", "trigger")),
                )
            )
        yield make_build(
            jobs,
            id=uid(f"build {day_number} {number}"),
            commit=chance.choice(("a", "a", "b", "HEAD", "", None)),
            pipeline=make_pipeline(chance.choice(("shop", "web"))),
            number=number,
        )


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_statistics_day_by_day_and_over_the_period(store, seed):
    chance = random.Random(seed)
    days = [FIRST + timedelta(days=n) for n in range(3)]
    for number, day in enumerate(days):
        store.add(day, list(odd_payloads(chance, number)))
    for day in days:
        expected = of_stats(summarize(str(day), store.tables[str(day)]))
        assert counts(store.flaky(since=str(day), until=str(day))) == expected
    _, jobs = frames_of(table for tables in store.tables.values() for table in tables)
    whole = counts(store.flaky())
    assert whole == of_frame(jobs.assign(flaky=flaky(jobs)))
    assert whole  # else nothing was compared


def test_agrees_with_the_statistics_on_the_sandbox(store):
    world = World(days=3, builds_per_day=60, today=FIRST)
    first, last = world.first_and_last_day()
    for n in range((last - first).days + 1):
        day = first + timedelta(days=n)
        payloads = [
            build_as_of(one, one.created_ms + 9 * DAY_S * 1000, retried_jobs=True)
            for one in world.builds(day)
        ]
        payloads = [msgspec.to_builtins(one) for one in payloads if one and one["finished_at"]]
        store.add(day, payloads)
    _, jobs = frames_of(table for tables in store.tables.values() for table in tables)
    expected = of_frame(jobs.assign(flaky=flaky(jobs)))
    rows = store.flaky(since=str(first), until=str(last))
    assert counts(rows) == expected
    assert len(expected) > 5
    assert [row["flaky_attempts"] for row in rows] == sorted(
        (row["flaky_attempts"] for row in rows), reverse=True
    )


def test_a_pass_on_a_later_day_counts_if_the_period_has_it(store):
    store.add(FIRST, [red("one")])
    store.add(FIRST + timedelta(days=3), [green("one", after_s=3 * DAY_S)])
    row = only(store.flaky())
    assert (row["flaky_attempts"], row["attempts"], row["failures"]) == (1, 2, 1)
    assert row["delay_p50_s"] == pytest.approx(3 * DAY_S - 1, abs=0.1)
    assert only(store.flaky(until=str(FIRST)))["flaky_attempts"] == 0


@pytest.mark.parametrize("commit", ["HEAD", "", None])
def test_builds_of_no_known_commit_have_none_in_common(store, commit):
    store.add(FIRST, [red("one", commit=commit)])
    store.add(FIRST + timedelta(days=1), [green("one", after_s=DAY_S, commit=commit)])
    assert only(store.flaky())["flaky_attempts"] == 0


def test_a_retry_within_a_build_of_no_known_commit_counts(store):
    old = job("test", "one", state="failed")
    store.add(FIRST, [build("one", [old, make_retry(old, made_s=20)], commit="HEAD")])
    assert only(store.flaky())["flaky_attempts"] == 1


@pytest.mark.parametrize(
    "lost",
    [
        {"exit_status": -1},
        {"exit_status": -1, "soft_failed": True},
        {"exit_status": 255, "signal_reason": "agent_stop"},
        {"exit_status": 255, "signal_reason": "agent_stop", "soft_failed": True},
    ],
)
def test_an_agent_that_was_lost_is_no_flaky_step(store, lost):
    old = job("test", "one", state="failed", **lost)
    store.add(FIRST, [build("one", [old, make_retry(old, made_s=20)])])
    row = only(store.flaky())
    assert (row["flaky_attempts"], row["failures"], row["attempts"]) == (0, 0, 1)


def test_the_newest_revision_of_a_build_counts(store):
    old = job("test", "one", state="failed")
    store.add(FIRST, [build("one", [dict(old)], state="failed")])
    store.add(FIRST, [build("one", [old, make_retry(old, made_s=3_600)])])
    row = only(store.flaky())
    assert (row["attempts"], row["flaky_attempts"]) == (2, 1)


def test_rates_times_and_minutes(store):
    day = FIRST + timedelta(days=20)
    old = [job("test", f"old {n}", state="failed", run_s=60 * n) for n in (1, 2)]
    retries = [make_retry(one, made_s=600 * n) for n, one in enumerate(old, 1)]
    store.add(FIRST, [build("old", [*old, *retries])])
    later = [job("test", f"new {n}", runnable_s=20 * DAY_S + n) for n in range(5)]
    store.add(day, [build("new", later, commit="other")])
    row = only(store.flaky(until=str(day)))
    assert (row["flaky_attempts"], row["attempts"], row["flaky_rate"]) == (2, 9, 2 / 9)
    assert (row["flaky_rate_before"], row["flaky_rate_7d"]) == (0.5, 0)
    assert (row["commits"], row["flaky_commits"], row["flaky_commit_rate"]) == (2, 1, 0.5)
    assert row["minutes_lost"] == pytest.approx(3)
    # The failures ended after 63 and 123 s, and the first pass came 549 and 489 s after them.
    assert row["delay_p50_s"] == pytest.approx((612.08 - 63 + 612.08 - 123) / 2, abs=0.5)
    assert f"{row['first_seen']:%H:%M:%S}" == "09:01:03"
    assert f"{row['last_seen']:%H:%M:%S}" == "09:02:03"
    assert row["last_seen_url"].endswith(old[1]["id"])
    assert row["attempts_since"] == 7


def test_history_by_week_counts_each_attempt_once(store):
    for number in range(15):
        day_s = number * DAY_S
        failed = job("test", f"red {number}", state="failed", runnable_s=day_s)
        passed = job("test", f"green {number}", runnable_s=day_s + 60)
        # The second week has no flaky failures.
        jobs = [passed] if 7 <= number < 14 else [failed, passed]
        store.add(
            FIRST + timedelta(days=number), [build(f"{number}", jobs, commit=f"commit {number}")]
        )
    rows = store.flaky(by="week")
    assert [(str(row["period"]), row["flaky_attempts"], row["attempts"]) for row in rows] == [
        ("2026-03-02", 7, 14),
        ("2026-03-09", 0, 7),
        ("2026-03-16", 1, 2),
    ]
    assert sum(row["flaky_attempts"] for row in rows) == only(store.flaky())["flaky_attempts"]
    assert len(store.flaky(by="day")) == 15
    assert only(store.flaky(by="month"))["period"] == date(2026, 3, 1)


def test_filters_are_about_failures_and_any_branch_may_pass(store):
    store.add(
        FIRST,
        [red("main", branch="main"), green("main", branch="feature/x")],
    )
    assert only(store.flaky(branch="main"))["flaky_attempts"] == 1
    assert only(store.flaky(branch="feature/*"))["flaky_attempts"] == 0
    assert store.flaky(branch="other") == []
    assert store.flaky(pipeline="web*") == []
    assert only(store.flaky(pipeline="sh?p"))["flaky_attempts"] == 1


def test_values_removed_by_privacy_settings_are_unknown(store):
    dropped = Privacy(drop=("buildkite.pipeline.*", "buildkite.step.*", "*.branch", "*.label"))
    old = job("test", "one", state="failed")
    store.add(FIRST, [build("one", [old, make_retry(old, made_s=20)])], change=dropped.apply)
    row = only(store.flaky())
    assert (row["pipeline"], row["step"]) == ("(unknown)", "(unknown)")
    assert row["flaky_attempts"] == 1


@pytest.mark.parametrize(
    ("currencies", "expected"), [("EUR EUR", (3.0, "EUR")), ("EUR USD", (None, None))]
)
def test_cost_is_that_of_flaky_attempts_in_one_currency(store, currencies, expected):
    """Attempts that passed cost nothing here."""
    old = [job("test", f"{n}", state="failed", parallel_group_index=n) for n in (0, 1)]
    retries = [make_retry(one, made_s=20, parallel_group_index=n) for n, one in enumerate(old)]

    def priced(table):
        names = table["name"].to_pylist()
        failed = [one == "failed" for one in table["buildkite.job.state"].to_pylist()]
        given = iter([(1.0, currencies.split()[0]), (2.0, currencies.split()[1])])
        values = [
            next(given) if name == "buildkite.job" and bad else (None, None)
            for name, bad in zip(names, failed, strict=True)
        ]
        for index, column in enumerate(("bk_pipeline.cost", "bk_pipeline.currency")):
            at = table.schema.get_field_index(column)
            array = pa.array([one[index] for one in values]).cast(table.schema.field(at).type)
            table = table.set_column(at, table.schema.field(at), array)
        return table

    store.add(FIRST, [build("one", [*old, *retries])], change=priced)
    row = only(store.flaky())
    assert (row["cost"], row["currency"]) == expected


def test_attempts_of_flaky_tests_are_those_of_flaky_steps():
    """Each file can be run by itself, and both have the same definition."""
    steps, tests = (query_text(name) for name in ("flaky", "flaky_tests"))
    definition = steps[steps.index("WITH attempts") : steps.index("flaky AS (")]
    assert "followed AS (" in definition
    assert definition in tests
