"""Metrics of a month that is materialized several times."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import dagster as dg
import pyarrow as pa
import pytest

from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS
from bk_pipeline.pipeline import deliver_day, extract_day, transform_day
from bk_pipeline_tests.worlds import stage

BUILDS, JOBS = "buildkite.builds.count", "buildkite.jobs.count"
ROOT = "buildkite.build"
JOB = "buildkite.job"


@pytest.fixture
def scene(tmp_path):
    with stage(tmp_path / "data", days=30, builds_per_day=15, otlp=True) as made:
        yield made


def materialize(scene, *, full_refresh=False):
    """Process all days without Dagster; return how many builds and jobs were accepted."""
    services = scene.services
    settings = OtlpSettings.from_environment(services.settings.environment, signal=METRICS)
    counted = 0
    with (
        services.buildkite(on_wait=print) as client,
        services.ledger() as ledger,
        closing(OtlpMetrics(settings, clock=services.clock)) as metrics,
    ):
        for key in scene.days:
            extract_day(
                day_of(key, services.settings),
                client=client,
                raw=services.raw(),
                clock=services.clock,
                full_refresh=full_refresh,
            )
            transform_day(key, raw=services.raw(), spans=services.spans())
            counted += deliver_day(
                key,
                spans=services.spans(),
                destination=metrics,
                ledger=ledger,
                clock=services.clock,
            ).accepted
    return counted


def counts_in_the_span_table(scene) -> Counter:
    """Count the builds and jobs of the span table, each once, without block steps."""
    store = scene.services.spans()
    seen = set()
    for day in scene.days:
        for part in store.parts(day):
            columns = ["span_id", "trace_id", "name", "buildkite.job.type"]
            for table in store.tables(day, part, columns=columns):
                assert isinstance(table, pa.Table)
                seen |= {tuple(row.values()) for row in table.to_pylist()}
    return Counter(name for _, _, name, kind in seen if name in {ROOT, JOB} and kind != "manual")


def test_month_materialized_twice_is_counted_once(scene):
    first = materialize(scene)
    stored = Counter(scene.sandbox.otlp.metrics.totals)
    points = len(scene.sandbox.otlp.metrics.points)

    second = materialize(scene)
    third = materialize(scene, full_refresh=True)

    expected = counts_in_the_span_table(scene)
    assert first == expected[ROOT] + expected[JOB] > 1_000
    assert (stored[BUILDS], stored[JOBS]) == (expected[ROOT], expected[JOB])
    assert (second, third) == (0, 0)
    assert scene.sandbox.otlp.metrics.totals == stored
    assert len(scene.sandbox.otlp.metrics.points) == points
    assert scene.sandbox.otlp.metrics.duplicate_count == 0


def test_metrics_equal_those_computed_from_the_spans(tmp_path):
    with stage(tmp_path, otlp=True) as scene, dg.DagsterInstance.ephemeral() as instance:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        spans, stored = scene.sandbox.otlp.spans, scene.sandbox.otlp.metrics

    assert run.error is None
    builds = [one for one in spans if one.name == ROOT]
    jobs = [
        one for one in spans if one.name == JOB and one.attributes["buildkite.job.type"] != "manual"
    ]
    started = [one for one in jobs if one.attributes["buildkite.job.started"]]
    waits = [one.attributes.get("buildkite.job.wait_time_ms") for one in started]
    assert stored.totals[BUILDS] == len(builds)
    assert stored.totals[JOBS] == len(jobs)
    assert histogram_totals(stored, "buildkite.builds.duration") == (
        len(builds),
        total_duration_ms(builds),
    )
    assert histogram_totals(stored, "buildkite.jobs.duration") == (
        len(started),
        total_duration_ms(started),
    )
    runs = histogram_totals(stored, "cicd.pipeline.run.duration")[1]
    assert round(runs * 1_000) == total_duration_ms(builds)
    failed = [
        one.attributes["cicd.pipeline.task.run.result"] for one in jobs if one.status_code == 2
    ]
    assert stored.totals["cicd.system.errors"] == failed.count("error")
    assert stored.totals["cicd.pipeline.run.errors"] == len(failed) - failed.count("error") > 0
    known = [one for one in waits if one is not None]
    assert histogram_totals(stored, "buildkite.jobs.wait_time") == (len(known), sum(known))


def total_duration_ms(spans) -> int:
    return sum((one.end_ns - one.start_ns) // 10**6 for one in spans)


def histogram_totals(stored, metric) -> tuple[int, float]:
    """Return the number and the sum of a histogram's values."""
    points = [one for one in stored.points if one.metric == metric]
    return sum(one.count for one in points), sum(one.sum for one in points)


def test_late_build_is_added_to_the_metrics(tmp_path):
    with stage(tmp_path, otlp=True) as scene, dg.DagsterInstance.ephemeral() as instance:
        [key] = scene.days
        [first] = materialize_days(scene.services, [key], instance=instance)
        before = scene.sandbox.otlp.metrics.totals[BUILDS]
        late = scene.sandbox.world.finish_build_now()
        moved = {"id": "late", "number": 9_000_001, "created_at": f"{key}T12:00:00.000Z"}
        scene.sandbox.world.add_build(late | moved)
        [second] = materialize_days(scene.services, [key], instance=instance)

        assert (first.error, second.error) == (None, None)
        assert first.results["otlp_metrics"].accepted < first.results["otlp_traces"].accepted
        assert scene.sandbox.otlp.metrics.totals[BUILDS] == before + 1
        assert second.results["otlp_metrics"].batches == 1
