"""Settings for which spans, links and columns are delivered, and when."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from bk_pipeline import spans, text, units
from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.pipeline import transform_fingerprint
from bk_pipeline.pipeline.transform import source_digest
from bk_pipeline.spans import model
from bk_pipeline.spans.costs import Price, Prices
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline_tests.conftest import FakeClock
from bk_pipeline_tests.worlds import PRESENT, stage

LINK = "link"
PATH_PARTS = ("run", "wait", "blocked")


@contextmanager
def delivered(folder, **settings):
    """Deliver a day with these settings; yield the Honeycomb events and the OTLP spans."""
    with (
        stage(folder, builds_per_day=60, otlp=True, **settings) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        yield [one.data for one in scene.sandbox.honeycomb.events], scene.sandbox.otlp.spans


def named(events, name):
    return [one for one in events if one.get("name") == name]


def test_wait_spans_are_off_by_default_and_can_be_turned_on(tmp_path):
    with delivered(tmp_path / "off") as (events, _):
        assert named(events, "buildkite.job.wait") == []
    with delivered(tmp_path / "on", BK_PIPELINE_SPANS_WAITS="true") as (events, spans):
        waits = named(events, "buildkite.job.wait")
        waited = [
            one["buildkite.job.wait_time_ms"]
            for one in named(events, "buildkite.job")
            if one.get("buildkite.job.wait_time_ms")
            and one.get("buildkite.job.started") is not False
        ]
        assert len(waited) > 50
        lengths = sorted(round(one["duration_ms"]) for one in waits)
        assert set(waited) <= set(lengths)
        assert len({one["trace.span_id"] for one in waits}) == len(waits)
        assert sum(one.name == "buildkite.job.wait" for one in spans) == len(waits)


def test_links_can_be_turned_off(tmp_path):
    with delivered(tmp_path / "on") as (events, spans):
        assert any(one.get("meta.annotation_type") == LINK for one in events)
        assert any(one.links for one in spans)
    with delivered(tmp_path / "off", BK_PIPELINE_SPANS_LINKS="false") as (events, spans):
        assert len(events) == len(spans) > 100
        assert not any(one.get("meta.annotation_type") == LINK for one in events)
        assert not any(one.links for one in spans)


def test_semantic_conventions_can_be_turned_off(tmp_path):
    with delivered(tmp_path / "on") as (events, _):
        assert any(name.startswith("cicd.") for one in events for name in one)
    with delivered(tmp_path / "off", BK_PIPELINE_SPANS_CONVENTIONS="false") as (events, spans):
        names = {name for one in events for name in one} | {
            name for one in spans for name in one.attributes
        }
        assert "buildkite.build.number" in names
        assert not any(name.startswith(("cicd.", "vcs.")) for name in names)


def test_each_pipeline_is_a_service_and_another_template_sends_nothing_again(tmp_path):
    def services(scene):
        """Return the names at Honeycomb, at the OTLP endpoint, and of the metrics."""
        return (
            {one.data["service.name"] for one in scene.sandbox.honeycomb.events},
            {one.resource["service.name"] for one in scene.sandbox.otlp.spans},
            {one.resource["service.name"] for one in scene.sandbox.otlp.metrics.points},
        )

    template = {"BK_PIPELINE_SPANS_SERVICE_NAME": "ci-{pipeline}"}
    with (
        stage(tmp_path, otlp=True, **template) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        names = {
            f"ci-{one.resource['buildkite.pipeline.slug']}" for one in scene.sandbox.otlp.spans
        }
        assert services(scene) == (names, names, {"buildkite"})
        assert len(names) > 1
        sent = scene.sandbox.honeycomb.event_count, scene.sandbox.otlp.span_count
        for other in ("{organization}-{pipeline}", ""):
            changed = App(
                scene.services.settings.changed({"BK_PIPELINE_SPANS_SERVICE_NAME": other}),
                clock=scene.clock,
                retries=0,
            )
            [run] = materialize_days(changed, scene.days, instance=instance)
            assert run.error is None
            assert run.results["honeycomb_events"].accepted == 0
            assert run.results["otlp_traces"].accepted == 0
            assert run.results["otlp_metrics"].accepted == 0
        assert services(scene) == (names, names, {"buildkite"})
        assert sent == (scene.sandbox.honeycomb.event_count, scene.sandbox.otlp.span_count)


def test_critical_path_reaches_both_loaders_and_can_be_turned_off(tmp_path):
    names = {"bk_pipeline.critical_path", "bk_pipeline.critical_path_ms", "bk_pipeline.slack_ms"}
    with delivered(tmp_path / "on") as (events, spans):
        assert all(names <= one.keys() for one in named(events, "buildkite.build.stage"))
        assert any(names <= one.attributes.keys() for one in spans)
        for one in named(events, "buildkite.build"):
            parts = [one[f"bk_pipeline.critical_path.{part}_ms"] for part in PATH_PARTS]
            assert sum(parts) == one["duration_ms"]
    with delivered(tmp_path / "off", BK_PIPELINE_SPANS_CRITICAL_PATH="false") as (events, spans):
        found = {name for one in (*events, *(span.attributes for span in spans)) for name in one}
        assert not any("critical_path" in name or "slack" in name for name in found)


def test_costs_reach_both_loaders_and_other_prices_send_nothing_again(tmp_path):
    file = tmp_path / "costs.toml"

    def write(per_minute):
        file.write_text(f'currency = "USD"\n[[price]]\nid = "all"\nper_minute = {per_minute}\n')

    def stored(scene):
        tables = scene.services.spans().newest(
            scene.days[0], columns=["trace_id", "name", "bk_pipeline.cost"]
        )
        return [row for table in tables for row in table.to_pylist()]

    write(0.5)
    with (
        stage(tmp_path / "data", otlp=True, BK_PIPELINE_COSTS=str(file)) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        jobs = [
            one
            for one in named((one.data for one in scene.sandbox.honeycomb.events), "buildkite.job")
            if one["buildkite.job.type"] == "script"
        ]
        assert len(jobs) > 50
        for one in jobs:
            ran = one["duration_ms"] if one["buildkite.job.started"] else 0
            assert one["bk_pipeline.cost"] == pytest.approx(ran / 120_000, abs=1e-6)
            assert one["bk_pipeline.currency"] == "USD"
        by_id = {one.span_id: one.attributes for one in scene.sandbox.otlp.spans}
        assert all(
            by_id[one["trace.span_id"]]["bk_pipeline.cost"] == one["bk_pipeline.cost"]
            for one in jobs
        )
        before, sent = stored(scene), scene.sandbox.honeycomb.event_count
        write(1)
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        assert run.results["honeycomb_events"].accepted == 0
        assert run.results["otlp_traces"].accepted == 0
        assert scene.sandbox.honeycomb.event_count == sent
        for old, new in zip(before, stored(scene), strict=True):
            assert new["bk_pipeline.cost"] == (
                old["bk_pipeline.cost"] and pytest.approx(2 * old["bk_pipeline.cost"], abs=1e-4)
            )


@pytest.fixture
def settled(tmp_path):
    """A scene whose builds are exported 24 hours after they have finished."""
    clock = FakeClock(PRESENT)
    with stage(
        tmp_path, clock=clock, builds_per_day=0, BK_PIPELINE_SPANS_EXPORT="settled"
    ) as scene:
        yield scene


def materialize(scene, day):
    with dg.DagsterInstance.ephemeral() as instance:
        [run] = materialize_days(scene.services, [day], instance=instance)
    assert run.error is None
    return {one.data["trace.span_id"] for one in scene.sandbox.honeycomb.events}


def test_build_is_exported_once_it_has_settled(settled):
    build = settled.sandbox.world.finish_build_now()
    day = build["created_at"][:10]
    assert materialize(settled, day) == set()
    settled.clock.moment += timedelta(hours=23)
    assert materialize(settled, day) == set()
    settled.clock.moment += timedelta(hours=2)
    sent = materialize(settled, day)
    assert len(sent) > 1
    assert materialize(settled, day) == sent
    assert settled.sandbox.honeycomb.duplicate_count == 0


def test_only_the_last_state_of_a_resumed_build_is_exported(settled):
    world = settled.sandbox.world
    build = world.finish_build_now()
    day = build["created_at"][:10]
    world.add_build(build | {"blocked": True, "state": "passed"})
    materialize(settled, day)
    settled.clock.moment += timedelta(hours=30)
    # A blocked build does not settle, however long ago it finished.
    assert materialize(settled, day) == set()
    finished_at = (settled.clock.now() - timedelta(minutes=1)).isoformat(timespec="milliseconds")
    world.add_build(build | {"state": "failed", "finished_at": finished_at})
    assert materialize(settled, day) == set()
    settled.clock.moment += timedelta(hours=25)
    assert materialize(settled, day)
    roots = [
        one.data
        for one in settled.sandbox.honeycomb.events
        if one.data.get("name") == "buildkite.build"
    ]
    assert [one["buildkite.build.state"] for one in roots] == ["failed"]
    assert settled.sandbox.honeycomb.duplicate_count == 0


def test_nightly_schedule_includes_days_with_unsettled_builds(settled):
    build = settled.sandbox.world.finish_build_now()
    day = build["created_at"][:10]
    settled.sandbox.world.add_build(build | {"blocked": True})
    materialize(settled, day)
    settled.clock.moment += timedelta(days=20)
    definitions = build_definitions(settled.services)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance,
            scheduled_execution_time=settled.clock.now(),
            repository_def=definitions.get_repository_def(),
        )
        found = definitions.resolve_schedule_def("nightly_reconcile").evaluate_tick(context)
    requested = {request.partition_key for request in found.run_requests}
    assert day in requested
    assert len(requested) == 1 + settled.services.settings.nightly_days


def test_fingerprint_changes_with_settings_and_code(monkeypatch, tmp_path):
    plain = transform_fingerprint(Privacy())
    others = [
        SpanOptions(waits=True),
        SpanOptions(links=False),
        SpanOptions(conventions=False),
        SpanOptions(critical_path=False),
        *(SpanOptions(prices=Prices("USD", (Price("all", one),))) for one in (0.1, 0.2)),
        SpanOptions(settled_after_s=3_600),
    ]
    found = {plain, *(transform_fingerprint(Privacy(), one) for one in others)}
    assert len(found) == 8
    # A copy of the package whose files differ.
    copy = tmp_path / "spans"
    copy.mkdir()
    (copy / "__init__.py").write_text("")
    (copy / "model.py").write_bytes(b"# changed\n")
    for package, file in (
        (spans, copy / "__init__.py"),
        (text, copy / "model.py"),
        (units, copy / "model.py"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(package, "__file__", str(file))
            source_digest.cache_clear()
            try:
                assert transform_fingerprint(Privacy()) not in found
            finally:
                source_digest.cache_clear()
    assert model.__file__ != str(copy / "model.py")


def test_fingerprint_covers_the_imports_of_the_span_model():
    sources = [file.read_text() for file in Path(spans.__path__[0]).rglob("*.py")]
    imported = {
        name
        for source in sources
        for name in re.findall(
            r"^(?:from|import) bk_pipeline[. ](?:import )?(\w+)", source, re.MULTILINE
        )
    }
    # `errors` decides no span; the others are hashed (see the test above).
    assert imported == {"spans", "errors", "text", "units"}
