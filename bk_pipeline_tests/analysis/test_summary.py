"""Every number of the statistics, on builds small enough to count manually."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec
import pandas as pd
import pytest

from bk_pipeline.analysis.columns import QUEUES, TABLES
from bk_pipeline.analysis.frames import COLUMNS
from bk_pipeline.analysis.summary import summarize
from bk_pipeline.pipeline import summarize_day, transform_day
from bk_pipeline.spans.costs import Price, Prices, with_costs
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import SCHEMA, table_of
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.raw import RawStore
from bk_pipeline.store.spans import SpanStore, StatsStore
from bk_pipeline_tests.builders import (
    make_agent,
    make_block,
    make_build,
    make_job,
    make_pipeline,
    make_retry,
    make_trace,
    make_trigger,
    uid,
)

DAY = "2026-03-02"


def build(name, jobs=None, **fields):
    return make_build(jobs, id=uid(f"build {name}"), **fields)


def job(name, build_name="", **fields):
    """Jobs of different builds have different ids; their step is the same."""
    return make_job(name, id=uid(f"job {name} {build_name}"), **fields)


def stats_of(*builds):
    table = table_of([make_trace(one) for one in builds])
    return summarize(DAY, [table.select(list(COLUMNS))])


def row(frame: pd.DataFrame, **where) -> dict:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    [only] = frame.to_dict("records")
    return only


def pipeline(*builds) -> dict:
    return row(stats_of(*builds).pipelines, pipeline="shop")


def test_builds_are_counted_by_state():
    found = pipeline(
        *(build(n, state="passed") for n in range(5)),
        build("red", state="failed"),
        build("stopped", state="canceled"),
        build("odd", state="not_run"),
        build("waits", [job("test"), make_block()], state="passed", blocked=True),
    )
    states = ("builds", "passed", "failed", "canceled", "blocked", "other")
    assert [found[name] for name in states] == [9, 5, 1, 1, 1, 1]
    assert found["failure_rate"] == pytest.approx(1 / 6)


def test_the_failure_rate_without_passed_or_failed_builds_is_null():
    found = pipeline(build("stopped", state="canceled"))
    assert pd.isna(found["failure_rate"])
    assert pd.isna(found["duration_p50_s"])


def test_durations_are_of_passed_and_failed_builds_and_interpolated():
    # Jobs that start after 3 s and run 7, 17, 27: builds of 10.2, 20.2, 30.2 s.
    runs = [build(n, [job("test", n, run_s=n * 10 - 3)]) for n in (1, 2, 3)]
    stopped = build("stopped", [job("test", "stopped", run_s=9_000)], state="canceled")
    found = pipeline(*runs, stopped)
    assert found["duration_p50_s"] == pytest.approx(20, abs=0.3)
    assert found["duration_p90_s"] == pytest.approx(28, abs=0.3)
    assert found["duration_p99_s"] == pytest.approx(29.8, abs=0.3)


def test_a_pause_at_a_block_step_does_not_count_as_duration():
    hour = 3_600
    jobs = [
        job("test", run_s=7),
        make_block(unblocked_s=hour),
        job("release", created_s=0, runnable_s=hour, run_s=18),
    ]
    found = pipeline(build("paused", jobs))
    assert 25 < found["duration_p50_s"] < 35


def test_queue_time_is_from_creation_to_the_first_start():
    found = pipeline(build("one", [job("a", runnable_s=1, wait_s=4), job("b", wait_s=60)]))
    assert found["queue_p50_s"] == 5


def test_jobs_are_attempts_of_command_and_trigger_steps():
    old = job("test", state="failed")
    jobs = [old, make_retry(old, made_s=20), make_trigger(), make_block(unblocked_s=90)]
    assert pipeline(build("all", jobs))["jobs"] == 3


def test_agent_minutes_count_every_attempt_on_an_agent():
    old = job("test", run_s=60, state="failed")
    jobs = [
        old,
        make_retry(old, made_s=100, run_s=120),
        make_trigger(run_s=600),
        job("late", run_s=None, state="expired", expired_at="2026-03-02T10:00:00.000Z"),
    ]
    stats = stats_of(build("all", jobs))
    assert row(stats.pipelines)["agent_minutes"] == pytest.approx(3)
    assert row(stats.steps, step="test")["agent_minutes"] == pytest.approx(3)
    assert stats.totals["agent_minutes"] == pytest.approx(3)


def test_retries_are_the_attempts_that_were_retried():
    first = job("test", state="failed")
    second = make_retry(first, made_s=20, kind="automatic", state="failed")
    third = make_retry(second, made_s=60, kind="manual")
    found = pipeline(build("thrice", [first, second, third]))
    assert (found["retries"], found["retries_by_hand"]) == (2, 1)


def test_soft_failures_are_counted_separately_from_failures():
    found = stats_of(
        build("soft", [job("lint", state="failed", soft_failed=True), job("test")]),
    )
    lint = row(found.steps, step="lint")
    assert (lint["soft_failures"], lint["failures"]) == (1, 0)
    assert row(found.pipelines)["soft_failures"] == 1


class TestFlaky:
    """Failed, then passed on the same commit."""

    def failures(self, *builds) -> int:
        return pipeline(*builds)["flaky_failures"]

    @pytest.mark.parametrize("kind", ["automatic", "manual"])
    def test_a_failure_that_passed_when_it_was_retried(self, kind):
        old = job("test", state="failed")
        assert self.failures(build("one", [old, make_retry(old, made_s=20, kind=kind)])) == 1

    def test_a_failure_whose_retry_failed_too_is_none(self):
        old = job("test", state="failed")
        again = make_retry(old, made_s=20, state="failed")
        assert self.failures(build("one", [old, again], state="failed")) == 0

    def test_a_failure_that_passed_in_another_build_of_the_commit(self):
        red = build("red", [job("test", "red", state="failed")], state="failed")
        green = build("green", [job("test", "green", runnable_s=60)])
        assert self.failures(red, green) == 1
        assert self.failures(red, green | {"commit": "another"}) == 0
        assert self.failures(red, green | {"pipeline": make_pipeline("other")}) == 0

    def test_what_passed_before_it_failed_is_none(self):
        green = build("green", [job("test", "green")])
        red = build("red", [job("test", "red", state="failed", runnable_s=60)], state="failed")
        assert self.failures(red, green) == 0

    def test_builds_of_no_known_commit_have_none_in_common(self):
        red = build("red", [job("test", "red", state="failed")], commit="HEAD")
        green = build("green", [job("test", "green", runnable_s=60)], commit="HEAD")
        assert self.failures(red, green) == 0

    def test_another_parallel_job_that_passes_makes_none(self):
        both = {"parallel_group_total": 2, "step_key": "test"}
        red = job("test 1", state="failed", parallel_group_index=0, **both)
        green = job("test 2", runnable_s=60, parallel_group_index=1, **both)
        assert self.failures(build("one", [red, green])) == 0

    def test_other_matrix_values_that_pass_make_none(self):
        red = job("test a", state="failed", step_key="test", matrix={"os": "mac"})
        green = job("test b", runnable_s=60, step_key="test", matrix={"os": "linux"})
        assert self.failures(build("one", [red, green])) == 0

    def test_a_soft_failure_that_passed_later_is_one(self):
        old = job("test", state="failed", soft_failed=True)
        assert self.failures(build("one", [old, make_retry(old, made_s=20)])) == 1

    @pytest.mark.parametrize(
        "lost",
        [
            {"exit_status": -1},
            {"exit_status": -1, "soft_failed": True},
            {"exit_status": 255, "signal_reason": "agent_stop"},
        ],
        ids=["lost", "lost and forgiven", "stopped"],
    )
    def test_an_agent_that_was_lost_is_no_flaky_step(self, lost):
        old = job("test", state="failed", **lost)
        assert self.failures(build("one", [old, make_retry(old, made_s=20)])) == 0

    def test_canceled_and_then_passed_is_none(self):
        old = job("test", state="canceled")
        assert self.failures(build("one", [old, make_retry(old, made_s=20)])) == 0

    def test_commits_are_counted_once(self):
        first = job("test", state="failed")
        second = make_retry(first, made_s=20, state="failed")
        third = make_retry(second, made_s=60)
        found = row(stats_of(build("one", [first, second, third])).steps, step="test")
        assert (found["flaky_failures"], found["flaky_commits"]) == (2, 1)


def test_a_step_is_named_by_its_key_label_or_command():
    jobs = [
        job("Unit tests", step_key=None, step=None),
        job("", step_key=None, step={"label": ""}, command="make b"),
    ]
    assert set(stats_of(build("one", jobs)).steps["step"]) == {"Unit tests", "make b"}


def test_waits_belong_to_the_requested_queue():
    mac = {"agent_query_rules": ["queue=mac"], "agent": None}
    never = {"run_s": None, "expired_at": "2026-03-02T10:00:00.000Z", "state": "expired"}
    jobs = [
        job("a", wait_s=3, run_s=60),
        job("b", wait_s=5, run_s=60),
        job("c", agent_query_rules=None, **never),
        job("d", **mac, **never),
    ]
    queues = stats_of(build("one", jobs)).queues
    default = row(queues, queue="default")
    assert (default["jobs"], default["never_started"]) == (2, 1)
    assert default["wait_p50_s"] == pytest.approx(4)
    assert default["wait_max_s"] == pytest.approx(5)
    assert default["waited_minutes"] == pytest.approx(8 / 60)
    assert default["agent_minutes"] == pytest.approx(2)
    unused = row(queues, queue="mac")
    assert (unused["jobs"], unused["never_started"], unused["waited_minutes"]) == (0, 1, 0)
    assert pd.isna(unused["wait_p50_s"])


def test_queues_of_the_same_name_in_two_clusters_are_separate():
    one, two = uid("cluster 1"), uid("cluster 2")
    builds = [build(at, [job("a", at)], cluster_id=at) for at in (one, two)]
    assert set(stats_of(*builds).queues["cluster"]) == {one, two}


def test_the_most_expensive_step_comes_first():
    jobs = [job("cheap", run_s=5), job("dear", run_s=500), job("middling", run_s=50)]
    steps = stats_of(build("one", jobs)).steps["step"]
    assert list(steps) == ["dear", "middling", "cheap"]


def test_cost_is_summed_by_pipeline_step_and_queue_and_null_without_prices():
    unpriced = [job("free", queue="mac", agent=make_agent(meta_data=["queue=mac"]))]
    builds = [
        build("one", [job("test", "one", run_s=60), job("lint", run_s=30)]),
        build("two", [job("test", "two", run_s=30, state="failed")], state="failed"),
        build("docs", unpriced, pipeline=make_pipeline("docs")),
    ]
    price = Price("linux", 0.1, 0, (("queue", ("default",)),))
    table = with_costs(table_of([make_trace(one) for one in builds]), Prices("USD", (price,)))
    found = summarize(DAY, [table.select(list(COLUMNS))])
    assert row(found.pipelines, pipeline="shop")["cost"] == 0.2
    assert math.isnan(row(found.pipelines, pipeline="docs")["cost"])
    assert row(found.steps, step="test")["cost"] == 0.15
    assert math.isnan(row(found.steps, step="free")["cost"])
    assert row(found.queues, queue="default")["cost"] == 0.2
    assert found.tables()[QUEUES]["cost"].to_pylist().count(None) == 1
    assert found.totals["cost"] == 0.2
    assert math.isnan(stats_of(*builds).totals["cost"])


def test_the_tables_have_their_declared_columns_and_types():
    for stats in (summarize(DAY, []), stats_of(build("one"), build("two", []))):
        for table, rows in stats.tables().items():
            assert rows.schema.equals(table.schema)
            assert len(set(rows["day"].to_pylist()) - {DAY}) == 0


def test_a_day_without_builds_has_empty_tables():
    assert [len(rows) for rows in summarize(DAY, []).tables().values()] == [0, 0, 0]


def test_a_build_without_jobs_is_counted():
    found = pipeline(build("empty", []))
    assert (found["builds"], found["jobs"], found["agent_minutes"]) == (1, 0, 0)


def test_values_removed_by_privacy_settings_are_unknown_in_statistics():
    table = table_of([make_trace(build("one"))])
    stats = summarize(DAY, [Privacy(drop=("*",)).apply(table).select(list(COLUMNS))])
    assert list(stats.pipelines["pipeline"]) == ["(unknown)"]
    assert stats.pipelines["builds"].sum() == 1


def test_every_column_is_in_the_span_table():
    assert set(COLUMNS) <= set(SCHEMA.names)


def test_every_meaning_is_a_sentence():
    for table in TABLES:
        for column in table.columns:
            assert column.meaning.endswith("."), column


class TestStored:
    """From raw parts to Parquet."""

    @pytest.fixture
    def folder(self, tmp_path):
        return Folder(str(tmp_path))

    def store(self, folder, payload, *, at_hour):
        raw = RawStore(folder)
        record = RawRecord.of(payload)
        raw.append(DAY, [record], fetched_at=datetime(2026, 3, 2, at_hour, tzinfo=UTC))
        transform_day(DAY, raw=raw, spans=SpanStore(folder))

    def test_of_a_build_that_went_on_the_newest_revision_counts(self, folder):
        test = job("test", state="failed")
        self.store(folder, build("one", [test], state="failed"), at_hour=10)
        self.store(folder, build("two"), at_hour=11)
        again = make_retry(test, made_s=3_600)
        self.store(folder, build("one", [test, again]), at_hour=12)
        found = summarize_day(DAY, spans=SpanStore(folder), stats=StatsStore(folder))
        shop = row(found.pipelines)
        assert (shop["builds"], shop["passed"], shop["failed"], shop["jobs"]) == (2, 2, 0, 3)
        assert (shop["retries"], shop["flaky_failures"]) == (1, 1)

    def test_a_later_run_replaces_the_files(self, folder, tmp_path):
        spans, stats = SpanStore(folder), StatsStore(folder)
        self.store(folder, build("one"), at_hour=10)
        summarize_day(DAY, spans=spans, stats=stats)
        self.store(folder, build("two"), at_hour=11)
        summarize_day(DAY, spans=spans, stats=stats)
        assert stats.read("pipelines", DAY)["builds"].to_pylist() == [2]
        files = sorted(path.name for path in (tmp_path / "stats").rglob("*") if path.is_file())
        assert files == [f"{DAY}.parquet"] * 3
        for table in TABLES:
            assert stats.days(table.name) == [DAY]
            read = pd.read_parquet(tmp_path / "stats" / table.name)
            assert list(read.columns) == [one.name for one in table.columns]


class RawRecord(msgspec.Struct):
    """The fields of a build that the raw store needs."""

    id: str
    number: int
    pipeline: str
    state: str
    created_ns: int
    finished_ns: int | None
    payload: bytes

    @classmethod
    def of(cls, payload):
        content = msgspec.json.encode(payload)
        return cls(payload["id"], 7, "shop", payload["state"], 0, 1, content)
