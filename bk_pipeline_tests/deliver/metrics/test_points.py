"""Measurements of builds and jobs, and the data points aggregated from them."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from itertools import chain, pairwise

import pytest

from bk_pipeline.deliver.metrics.points import (
    COMPUTED,
    DIMENSIONS,
    INSTRUMENTS,
    data_points,
    measured_items,
)
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.fields import FIELDS
from bk_pipeline.spans.privacy import Privacy, hashed
from bk_pipeline.units import NS_PER_HOUR
from bk_pipeline_tests.builders import (
    BEGAN,
    make_agent,
    make_block,
    make_build,
    make_job,
    make_pipeline,
    make_retry,
    make_trigger,
    ns_at,
    uid,
)
from bk_pipeline_tests.deliver.tables import table

BUILDS, BUILD_TIMES = "buildkite.builds.count", "buildkite.builds.duration"
JOBS, JOB_TIMES = "buildkite.jobs.count", "buildkite.jobs.duration"
WAITS = "buildkite.jobs.wait_time"
RUNS, RUN_ERRORS = "cicd.pipeline.run.duration", "cicd.pipeline.run.errors"
SYSTEM_ERRORS = "cicd.system.errors"
SHOP = {"buildkite.organization.slug": "acme", "cicd.pipeline.name": "Shop"}


def points(*builds):
    """Return the data points of a table of these builds, by metric."""
    found = {one.name: [] for one in INSTRUMENTS}
    for point in data_points(measured_items(SpanRows.from_table(table(*builds)))):
        found[point.instrument.name].append(point)
    return found


def only(*builds, metric):
    [point] = points(*builds)[metric]
    return point


def numbered(n: int, jobs=None, **fields):
    jobs = [make_job("test", id=uid(f"job {n}"))] if jobs is None else jobs
    return make_build(jobs, id=uid(f"build {n}"), number=n, **fields)


def test_build_has_the_attributes_of_buildkites_example():
    point = only(make_build(source="schedule"), metric=BUILDS)

    assert point.count == 1
    assert dict(point.attributes) == {
        "buildkite.organization.slug": "acme",
        "buildkite.pipeline.slug": "shop",
        "buildkite.build.source": "schedule",
        "buildkite.build.state": "passed",
    }


def test_job_has_the_attributes_of_buildkites_example():
    point = only(make_build([make_job("lint", state="failed")], state="failed"), metric=JOBS)

    assert dict(point.attributes) == {
        "buildkite.organization.slug": "acme",
        "buildkite.pipeline.slug": "shop",
        "buildkite.build.source": "webhook",
        "buildkite.step.key": "lint",
        "buildkite.job.exit_status": 1,
        "buildkite.job.passed": False,
    }


def test_durations_are_those_of_the_spans_in_milliseconds():
    build = make_build([make_job(runnable_s=1, wait_s=2.5, run_s=10.25)])

    found = points(build)

    assert found[BUILD_TIMES][0].histogram.sum == 13_950
    assert found[JOB_TIMES][0].histogram.sum == 10_250
    assert found[WAITS][0].histogram.sum == 2_500


def test_run_is_pending_until_its_first_job_starts_and_then_executing():
    build = make_build([make_job(runnable_s=1, wait_s=2.5, run_s=10.25)])

    pending, executing = points(build)[RUNS]

    assert dict(pending.attributes) == SHOP | {"cicd.pipeline.run.state": "pending"}
    assert dict(executing.attributes) == SHOP | {
        "cicd.pipeline.run.state": "executing",
        "cicd.pipeline.result": "success",
    }
    assert (pending.histogram.sum, executing.histogram.sum) == (3.5, 10.45)
    assert (pending.histogram.min, executing.histogram.max) == (3.5, 10.45)


def test_run_that_never_executed_has_its_result_while_pending():
    waited = make_job(run_s=None, state="canceled", finished_at="2026-03-02T09:05:00.000Z")
    canceled = make_build([waited], state="canceled")
    expired = make_job(
        "b", run_s=None, state="expired", expired_at="2026-03-02T09:05:00.000Z", id=uid("expired")
    )
    failed = make_build([expired], state="failed", id=uid("failed"), number=2)

    found = {
        dict(one.attributes)["cicd.pipeline.result"]: one for one in points(canceled, failed)[RUNS]
    }

    assert {dict(one.attributes)["cicd.pipeline.run.state"] for one in found.values()} == {
        "pending"
    }
    assert set(found) == {"cancellation", "error"}
    assert "error.type" not in dict(found["cancellation"].attributes)
    assert dict(found["error"].attributes)["error.type"] == "failed"


def test_seconds_of_a_run_add_up_to_its_span_whatever_the_order():
    draw = random.Random(3)
    builds = [
        numbered(n, [make_job("test", id=uid(f"job {n}"), run_s=draw.random() * 1_000)])
        for n in range(1, 60)
    ]

    def total(found, metric):
        return sum(round(one.histogram.sum * 1_000) for one in found[metric])

    found, shuffled = points(*builds), points(*draw.sample(builds, len(builds)))

    assert total(found, RUNS) == sum(one.histogram.sum for one in found[BUILD_TIMES])
    assert found[RUNS] == shuffled[RUNS]


LOST = {"state": "failed", "exit_status": -1}


def refused(reason):
    return LOST | {"signal_reason": reason}


def test_each_failed_attempt_is_an_error_of_its_run():
    first = make_job("a", state="failed")
    jobs = [
        first,
        make_retry(first, made_s=14, state="failed"),
        make_job("b", state="timed_out"),
        make_job("c", state="failed", soft_failed=True),
        make_job("d", state="canceled"),
        make_job("e"),
        make_job("f", **LOST),
    ]

    found = points(make_build(jobs, state="failed"))[RUN_ERRORS]

    assert {one.attributes: one.count for one in found} == {
        (*SHOP.items(), ("error.type", "failed")): 2,
        (*SHOP.items(), ("error.type", "timed_out")): 1,
    }


@pytest.mark.parametrize(
    ("job", "component", "error_type"),
    [
        (LOST, "agent", "agent_lost"),
        (refused("agent_stop"), "agent", "agent_lost"),
        (refused("agent_refused"), "agent", "failed"),
        (refused("process_run_error"), "agent", "failed"),
        (refused("stack_error"), "controller", "failed"),
        ({"state": "expired", "run_s": None}, "scheduler", "expired"),
    ],
)
def test_failure_of_the_ci_system_is_an_error_of_its_component(job, component, error_type):
    found = points(make_build([make_job("a"), make_job("b", **job)], state="failed"))

    [point] = found[SYSTEM_ERRORS]
    assert found[RUN_ERRORS] == []
    assert point.count == 1
    assert dict(point.attributes) == {
        "buildkite.organization.slug": "acme",
        "cicd.system.component": component,
        "error.type": error_type,
    }


def test_passed_build_has_no_errors():
    found = points(make_build([make_job("a"), make_job("b", soft_failed=True, **LOST)]))

    assert found[RUN_ERRORS] == found[SYSTEM_ERRORS] == []


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ({"drop": ("cicd.pipeline.name",)}, None),
        ({"drop": ("buildkite.pipeline.name",)}, None),
        ({"hash": ("buildkite.pipeline.name",)}, hashed("Shop")),
    ],
)
def test_privacy_rules_apply_to_the_pipelines_name(rule, name):
    rows = Privacy(**rule).apply(table(make_build([make_job("a", state="failed")], state="failed")))

    for point in data_points(measured_items(SpanRows.from_table(rows))):
        if point.instrument.name in {RUNS, RUN_ERRORS}:
            assert dict(point.attributes).get("cicd.pipeline.name") == name


def test_waits_are_split_by_queue_only():
    agent = make_agent("mac-1", meta_data=["queue=mac"])
    jobs = [
        make_job("a", wait_s=1),
        make_job("b", wait_s=3),
        make_job("c", wait_s=9, agent=agent, agent_query_rules=["queue=mac"]),
    ]

    found = points(make_build(jobs))[WAITS]

    assert {dict(one.attributes)["buildkite.agent.queue"]: one.histogram.sum for one in found} == {
        "default": 4_000,
        "mac": 9_000,
    }
    assert len(found[0].attributes) == 2


def test_block_step_is_not_counted_as_a_job():
    build = make_build([make_job(), make_block(unblocked_s=9_000), make_trigger(runnable_s=9_001)])

    assert sum(one.count for one in points(build)[JOBS]) == 2


def test_job_that_never_started_is_counted_without_duration_or_wait():
    waited = make_job(
        "deploy", run_s=None, state="canceled", finished_at="2026-03-02T09:05:00.000Z"
    )

    found = points(make_build([waited], state="canceled"))

    assert [one.count for one in found[JOBS]] == [1]
    assert found[JOB_TIMES] == found[WAITS] == []
    assert "buildkite.job.exit_status" not in dict(found[JOBS][0].attributes)


def test_builds_of_an_hour_make_one_point():
    later = [make_job("test", id=uid("late"), runnable_s=3_600)]

    first, second = points(numbered(1), numbered(2), numbered(3, later))[BUILDS]

    assert (first.count, second.count) == (2, 1)
    assert first.start_ns == int(BEGAN.timestamp()) * 10**9
    assert second.start_ns == first.start_ns + NS_PER_HOUR


def test_build_belongs_to_the_hour_in_which_it_ended():
    overnight = [make_job("test", runnable_s=1, run_s=15 * 3_600)]

    point = only(make_build(overnight), metric=BUILDS)

    assert datetime.fromtimestamp(point.start_ns / 1e9, BEGAN.tzinfo) == BEGAN + timedelta(hours=15)


def test_window_ends_less_than_a_millisecond_after_its_last_measurement():
    for point in points(numbered(1), numbered(2))[BUILDS]:
        assert 0 < point.time_ns - ns_at(13.2) < 10**6


def test_end_on_the_hour_belongs_to_the_hour_that_begins():
    point = only(make_build([make_job(runnable_s=1, wait_s=1, run_s=3_598)]), metric=JOBS)

    assert point.start_ns == ns_at(3_600)
    assert point.start_ns < point.time_ns < point.start_ns + 10**6


def test_points_do_not_depend_on_the_order_of_measurements():
    items = measured_items(SpanRows.from_table(table(numbered(1), numbered(2), numbered(3))))

    assert list(data_points(items)) == list(data_points(items[::-1]))


def test_different_measurements_at_the_same_time_make_different_points():
    one, other = only(numbered(1), metric=BUILDS), only(numbered(2), metric=BUILDS)

    assert (one.attributes, one.start_ns, one.count) == (
        other.attributes,
        other.start_ns,
        other.count,
    )
    assert one.time_ns != other.time_ns


def test_points_of_any_split_into_requests_add_up_to_the_same():
    draw = random.Random(7)
    builds = [
        numbered(
            n, [make_job(f"job-{m}", id=uid(f"job {n} {m}"), run_s=n * m) for m in range(1, 9)]
        )
        for n in range(1, 30)
    ]
    items = measured_items(SpanRows.from_table(table(*builds)))
    whole = added_up(data_points(items))

    for _ in range(5):
        cuts = sorted(draw.sample(range(1, len(items)), 7))
        edges = [0, *cuts, len(items)]
        parts = [data_points(items[first:end]) for first, end in pairwise(edges)]
        assert added_up(chain.from_iterable(parts)) == whole


def added_up(found):
    """Add up deltas like a backend does: counts and sums by metric, attributes and hour."""
    total = Counter()
    moments = set()
    for one in found:
        series = one.instrument.name, one.attributes
        assert (*series, one.time_ns) not in moments
        moments.add((*series, one.time_ns))
        total[*series, one.start_ns, "count"] += one.count
        total[*series, one.start_ns, "sum"] += one.histogram.sum if one.histogram else 0
    return total


def test_pipelines_have_separate_points():
    tools = make_pipeline("tools")

    found = points(numbered(1), numbered(2, pipeline=tools))

    for metric in (BUILDS, JOBS):
        slugs = [dict(one.attributes)["buildkite.pipeline.slug"] for one in found[metric]]
        assert sorted(slugs) == ["shop", "tools"]


def test_counts_and_histograms_agree():
    build = make_build([make_job(f"job-{n}", run_s=n * 7) for n in range(1, 20)])

    found = points(build)

    counted = {one.attributes: one.count for one in found[JOBS]}
    assert counted == {one.attributes: one.histogram.count for one in found[JOB_TIMES]}


def test_empty_table_has_no_measurements():
    assert measured_items(SpanRows.from_table(table(make_build()).slice(0, 0))) == []


@pytest.mark.parametrize("name", sorted(set(DIMENSIONS) - set(COMPUTED)))
def test_every_dimension_is_a_field_of_the_span_table(name):
    assert name in {field.name for field in FIELDS}
