"""The sensor reports how many builds are active, and never fails because of it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import dagster as dg
import msgspec
import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.defs.sensors import Cursor
from bk_pipeline.pipeline.newly_finished import PollCursor
from bk_pipeline.spans.privacy import hashed
from bk_pipeline_tests.builders import make_build, make_pipeline, uid
from bk_pipeline_tests.defs.test_sensor import days, read, settle, tick
from bk_pipeline_tests.worlds import stage

ACTIVE = "cicd.pipeline.run.active"
ON = {"BK_PIPELINE_SENSOR_ACTIVE_RUNS": "true", "BK_PIPELINE_PIPELINES": "depot*"}
STATES = ("pending", "executing", "finalizing")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def scene(tmp_path, clock):
    with stage(tmp_path, clock=clock, otlp=True, **ON) as made:
        yield made


def add(scene, number, state, slug="depot", **fields):
    """Add a build that has not ended, or replace the one with this number."""
    payload = make_build(
        [],
        id=uid(f"{slug} {number}"),
        number=number,
        state=state,
        pipeline=make_pipeline(slug),
        created_at=(scene.clock.now() - timedelta(hours=30)).isoformat(),
        finished_at=None,
        **fields,
    )
    scene.sandbox.world.add_build(payload)


def link_headers_are_known(scene):
    """Make each short listing cost one request: no other has to prove that it is complete."""
    scene.services._paging.links = True


def reported(scene):
    """The points that have arrived since the last call, by pipeline and state."""
    points = [one for one in scene.sandbox.otlp.metrics.points if one.metric == ACTIVE]
    scene.sandbox.otlp.reset()
    found = {
        (one.attributes.get("cicd.pipeline.name"), one.attributes["cicd.pipeline.run.state"]): one
        for one in points
    }
    assert len(found) == len(points)
    return found


def counts(points):
    return {key: one.count for key, one in points.items()}


def test_every_poll_reports_the_active_builds_by_pipeline_and_state(scene, instance):
    for number, state in enumerate(["creating", "scheduled", "running", "failing", "canceling"], 1):
        add(scene, number, state)
    add(scene, 6, "passed", blocked=True)
    add(scene, 7, "running", slug="depot-2")
    add(scene, 8, "running", slug="unwatched")

    tick(scene, instance)

    found = reported(scene)
    assert counts(found) == {
        **dict(zip((("Depot", one) for one in STATES), (2, 2, 1), strict=True)),
        **dict(zip((("Depot-2", one) for one in STATES), (0, 1, 0), strict=True)),
    }
    [times] = {(one.start_ns, one.time_ns) for one in found.values()}
    assert times == (
        0,
        int(scene.clock.now().timestamp()) * 10**9 + scene.clock.now().microsecond * 1000,
    )
    for one in found.values():
        assert (one.gauge, one.unit) == (True, "{run}")
        assert one.attributes["buildkite.organization.slug"] == "acme"
        assert one.schema_urls == ("https://opentelemetry.io/schemas/1.44.0",) * 2


def test_pipeline_without_active_builds_is_reported_as_zero_for_a_day(scene, instance):
    add(scene, 1, "running")
    cursor = tick(scene, instance).cursor
    assert counts(reported(scene)) == {
        ("Depot", "pending"): 0,
        ("Depot", "executing"): 1,
        ("Depot", "finalizing"): 0,
    }

    add(scene, 1, "passed")
    for _ in range(2):
        scene.clock.moment += timedelta(hours=12)
        cursor = tick(scene, instance, cursor).cursor
        assert counts(reported(scene)) == {("Depot", state): 0 for state in STATES}
    scene.clock.moment += timedelta(seconds=1)
    cursor = tick(scene, instance, cursor).cursor
    assert reported(scene) == {}
    assert msgspec.json.decode(cursor, type=Cursor).active == {}


def test_report_costs_one_request_per_poll(scene, instance):
    cursor = settle(scene, instance)
    link_headers_are_known(scene)
    add(scene, 1, "running")
    before = scene.sandbox.buildkite.request_count

    tick(scene, instance, cursor)

    assert scene.sandbox.buildkite.request_count == before + 2


def test_without_the_setting_nothing_is_asked_or_sent(tmp_path, instance, clock):
    with stage(tmp_path, clock=clock, otlp=True) as scene:
        add(scene, 1, "running")
        cursor = settle(scene, instance)
        before = scene.sandbox.buildkite.request_count
        tick(scene, instance, cursor)
        assert scene.sandbox.buildkite.request_count == before + 1
        assert scene.sandbox.otlp.request_count == 0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_METRICS_EXPORTER": "none"}, "no destination otlp_metrics is configured"),
        ({"BK_PIPELINE_SPANS_CONVENTIONS": "false"}, "BK_PIPELINE_SPANS_CONVENTIONS is off"),
    ],
    ids=["metrics off", "conventions off"],
)
def test_setting_without_effect_is_reported_and_costs_nothing(
    tmp_path, instance, clock, variables, message
):
    with stage(tmp_path, clock=clock, otlp=True, **ON, **variables) as scene:
        cursor = settle(scene, instance)
        before = scene.sandbox.buildkite.request_count
        result = tick(scene, instance, cursor)
        assert message in result.skip_message
        assert scene.sandbox.buildkite.request_count == before + 1
        assert scene.sandbox.otlp.request_count == 0


@pytest.mark.parametrize(
    "fault",
    [
        ("otlp", "status", {"status": 401}),
        ("otlp", "status", {"status": 429, "headers": {"Retry-After": "3600"}}),
        ("otlp", "status", {"status": 500}),
        ("otlp", "reset", {}),
        ("otlp", "html", {}),
        ("otlp", "partial", {"rejected_spans": 1, "message": "too fast"}),
        ("otlp", "partial", {"rejected_spans": 3, "message": "too fast"}),
        ("buildkite", "status", {"status": 500}),
        ("buildkite", "status", {"status": 403}),
        ("buildkite", "status", {"status": 422}),
        ("buildkite", "html", {}),
        ("buildkite", "reset", {}),
    ],
)
def test_failed_report_does_not_keep_the_sensor_from_its_work(tmp_path, instance, clock, fault):
    service, kind, details = fault
    settings = ON | {"BK_PIPELINE_HTTP_DEADLINE_S": "0", "BK_PIPELINE_PIPELINES": ""}
    with stage(tmp_path, clock=clock, otlp=True, **settings) as scene:
        cursor = settle(scene, instance)
        link_headers_are_known(scene)
        build = scene.sandbox.world.finish_build_now()
        add(scene, 1, "running")
        # The sensor's own listing comes first.
        after = 1 if service == "buildkite" else 0
        scene.sandbox.faults.inject(service, kind, after=after, count=9, **details)

        result = tick(scene, instance, cursor)

        assert days(result) == [build["created_at"][:10]]
        # What was known is kept, so that zeros follow.
        assert {*read(result).active} >= {*msgspec.json.decode(cursor, type=Cursor).active}
        scene.sandbox.faults.clear()
        scene.sandbox.otlp.reset()
        idle = tick(scene, instance, result.cursor)
        assert "not reported" not in (idle.skip_message or "")
        assert reported(scene)[("Depot", "executing")].count >= 1


def test_error_that_was_not_foreseen_does_not_stop_the_sensor(scene, instance, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a secret")

    cursor = settle(scene, instance)
    monkeypatch.setattr(BuildkiteClient, "active_builds", fail)

    message = tick(scene, instance, cursor).skip_message

    assert message == "Active builds are not reported: ValueError."


def test_too_many_active_builds_are_not_reported_in_part(scene, instance, monkeypatch):
    monkeypatch.setattr("bk_pipeline.pipeline.active_runs.MOST_PAGES", 1)
    cursor = settle(scene, instance)
    reported(scene)
    for number in range(101):
        add(scene, number + 1, "running")

    result = tick(scene, instance, cursor)

    assert result.skip_message.startswith("Active builds are not reported: there are more than")
    assert reported(scene) == {}


def test_report_leaves_the_sensor_what_a_backfill_leaves_it(tmp_path, instance, clock):
    with stage(tmp_path, clock=clock, otlp=True, limits=True, **ON) as scene:
        add(scene, 1, "running")
        cursor = settle(scene, instance)
        with scene.services.buildkite(str) as client:
            while not client._api._quota.pause_s(clock.monotonic()):
                client.organization_visible()
        # The two requests that are left until the reset are for the sensor's own listings.
        for _ in range(2):
            result = tick(scene, instance, cursor)
            assert result.skip_message.startswith("Active builds are not reported: ")
            cursor = result.cursor
        assert scene.sandbox.buildkite.request_count == 50
        assert clock.slept == []


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"BK_PIPELINE_SPANS_HASH": "cicd.pipeline.name"}, hashed("Depot")),
        ({"BK_PIPELINE_SPANS_HASH": "buildkite.pipeline.name"}, hashed("Depot")),
        ({"BK_PIPELINE_SPANS_DROP": "cicd.*"}, None),
        ({"BK_PIPELINE_SPANS_DROP": "buildkite.pipeline.name"}, None),
        ({"BK_PIPELINE_SPANS_MASK": "Dep.t"}, "[masked]"),
    ],
)
def test_privacy_rules_apply_to_names_in_points_and_in_the_cursor(
    tmp_path, instance, clock, variables, name
):
    with stage(tmp_path, clock=clock, otlp=True, **ON, **variables) as scene:
        add(scene, 1, "running")
        add(scene, 2, "scheduled")
        result = tick(scene, instance)
        found = counts(reported(scene))
        assert found == {(name, "pending"): 1, (name, "executing"): 1, (name, "finalizing"): 0}
        assert "Depot" not in result.cursor
        assert Counter(read(result).active).keys() == {name or ""}


def test_cursor_of_an_earlier_version_is_read(scene, instance):
    old = msgspec.json.encode({"place": PollCursor(scene.clock.now()), "wanted": {}}).decode()
    add(scene, 1, "running")

    result = tick(scene, instance, old)

    assert "could not be read" not in (result.skip_message or "")
    assert reported(scene)[("Depot", "executing")].count == 1
