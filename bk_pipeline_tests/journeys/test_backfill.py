"""The whole pipeline from Buildkite to Honeycomb, against the sandbox."""

from __future__ import annotations

import json
from collections import Counter

import dagster as dg
import pytest

from bk_pipeline.defs.assets import assets_of
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import resources_of
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline_tests.buildkite.listed import build
from bk_pipeline_tests.worlds import stage

IDS = ("trace_id", "span_id")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def backfill(scene, instance, **options):
    runs = list(materialize_days(scene.services, scene.days, instance=instance, **options))
    assert [run.error for run in runs] == [None] * len(runs)
    return runs


def total(runs, asset, name) -> int:
    return sum(getattr(run.results[asset], name) for run in runs)


def test_accepted_count_equals_what_the_destination_stored(tmp_path, instance):
    with stage(tmp_path, days=2) as scene:
        runs = backfill(scene, instance)
        honeycomb = scene.sandbox.honeycomb
        assert total(runs, "honeycomb_events", "accepted") == honeycomb.event_count > 0
        assert honeycomb.duplicate_count == 0
        assert list(honeycomb.warnings) == []
        spans = [event for event in honeycomb.events if "trace.span_id" in event.data]
        assert len(spans) == sum(run.results["spans"].summary.spans for run in runs)


def test_every_delivered_trace_is_complete(tmp_path, instance):
    with stage(tmp_path) as scene:
        backfill(scene, instance)
        spans = [one.data for one in scene.sandbox.honeycomb.events if "trace.span_id" in one.data]
    ids = {(span["trace.trace_id"], span["trace.span_id"]) for span in spans}
    roots = Counter(span["trace.trace_id"] for span in spans if "trace.parent_id" not in span)
    assert set(roots.values()) == {1}
    assert roots.keys() == {trace for trace, _ in ids}
    for span in spans:
        if "trace.parent_id" in span:
            assert (span["trace.trace_id"], span["trace.parent_id"]) in ids
        assert span["duration_ms"] >= 0


def test_second_materialization_sends_nothing(tmp_path, instance):
    with stage(tmp_path) as scene:
        backfill(scene, instance)
        before = scene.sandbox.honeycomb.event_count
        again = backfill(scene, instance)
        assert scene.sandbox.honeycomb.event_count == before
        assert total(again, "honeycomb_events", "batches") == 0
        assert total(again, "raw_builds", "stored") == 0


def test_full_refresh_reads_everything_and_sends_nothing(tmp_path, instance):
    with stage(tmp_path) as scene:
        first = backfill(scene, instance)
        before = scene.sandbox.honeycomb.event_count
        again = backfill(scene, instance, full_refresh=True)
        assert total(again, "raw_builds", "stored") == total(first, "raw_builds", "stored")
        assert scene.sandbox.honeycomb.event_count == before


def test_materializing_a_day_again_costs_one_request(tmp_path, instance):
    with stage(tmp_path) as scene:
        backfill(scene, instance)
        before = scene.sandbox.buildkite.request_count
        backfill(scene, instance)
        assert scene.sandbox.buildkite.request_count == before + 1


def test_raw_store_keeps_the_payloads_unchanged(tmp_path, instance):
    with stage(tmp_path) as scene:
        backfill(scene, instance)
        raw = scene.services.raw()
        [day] = scene.days
        payloads = [
            json.loads(payload)
            for part in raw.parts(day)
            for group in raw.payloads(day, part)
            for payload in group
        ]
        assert all("env" in payload for payload in payloads)
        assert len({payload["id"] for payload in payloads}) == len(payloads)


def test_env_and_credentials_are_never_sent_or_stored(tmp_path, instance):
    with stage(tmp_path) as scene:
        backfill(scene, instance)
        secrets = scene.sandbox.buildkite_token, scene.sandbox.honeycomb_key
        sent = json.dumps([event.data for event in scene.sandbox.honeycomb.events])
        assert '"env' not in sent
        for path in tmp_path.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not any(secret.encode() in content for secret in secrets)
        assert not any(secret in sent for secret in secrets)


def test_only_selected_pipelines_are_extracted(tmp_path, instance):
    with stage(tmp_path, BK_PIPELINE_PIPELINES="!*-*") as scene:
        backfill(scene, instance)
        slugs = {one.data.get("buildkite.pipeline.slug") for one in scene.sandbox.honeycomb.events}
        assert slugs
        assert not any("-" in slug for slug in slugs)


def test_current_day_can_be_materialized(tmp_path, instance):
    with stage(tmp_path) as scene:
        today = scene.sandbox.world.first_and_last_day()[1].isoformat()
        [run] = materialize_days(scene.services, [today], instance=instance)
        assert run.error is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"BUILDKITE_API_TOKEN": "bkua_wrong"}, "BUILDKITE_API_TOKEN"),
        ({"BUILDKITE_ORGANIZATION_SLUG": "elsewhere"}, "BUILDKITE_ORGANIZATION_SLUG"),
        ({"HONEYCOMB_API_KEY": "hcaik_" + "0" * 58}, "HONEYCOMB_API_KEY"),
        ({"BUILDKITE_API_URL": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        ({"HONEYCOMB_API_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9"),
    ],
    ids=["wrong token", "wrong organization", "wrong key", "Buildkite away", "Honeycomb away"],
)
def test_failed_run_says_what_to_do(tmp_path, instance, settings, expected):
    with stage(tmp_path, BK_PIPELINE_HTTP_DEADLINE_S="0", **settings) as scene:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is not None
        assert expected in run.error
        assert "Traceback" not in run.error
        assert len(run.error) < 400
        assert scene.sandbox.honeycomb.event_count == 0


@pytest.mark.parametrize("kind", ["raw", "spans", "stats"])
@pytest.mark.parametrize("full_refresh", [False, True], ids=["sync", "full refresh"])
def test_damaged_files_are_restored_and_nothing_is_sent_twice(
    *, tmp_path, instance, kind, full_refresh
):
    with stage(tmp_path) as scene:
        first = backfill(scene, instance)
        honeycomb = scene.sandbox.honeycomb
        before = honeycomb.event_count
        for path in (tmp_path / kind).rglob("*.parquet"):
            path.write_bytes(path.read_bytes()[:-20])

        backfill(scene, instance, full_refresh=full_refresh)

        assert honeycomb.event_count == before
        assert honeycomb.duplicate_count == 0
        total_spans = first[0].results["spans"].summary.spans
        [day] = scene.days
        names = [table["span_id"] for table in scene.services.spans().newest(day, columns=IDS)]
        assert sum(map(len, names)) == total_spans


def test_spans_damaged_before_delivery_are_restored_and_sent(tmp_path, instance):
    """The files are damaged between transform and delivery."""
    with stage(tmp_path) as scene:
        [day] = scene.days
        assets = {one.key.to_user_string(): one for one in assets_of(scene.services, Naming())}
        resources = resources_of(scene.services, Naming())

        def materialize(*names):
            made = [assets[name] for name in names]
            return dg.materialize(
                made, partition_key=day, instance=instance, resources=resources
            ).success

        assert materialize("raw_builds", "spans")
        [path] = (tmp_path / "spans").rglob("*.parquet")
        path.write_bytes(path.read_bytes()[:-20])
        assert materialize("honeycomb_events")
        spans = [one for one in scene.sandbox.honeycomb.events if "trace.span_id" in one.data]
        held = scene.services.spans().newest(day, columns=IDS)
        assert len(spans) == sum(map(len, held)) > 0


def test_builds_without_a_trace_are_counted_by_reason(tmp_path, instance):
    with stage(tmp_path, builds_per_day=40) as scene:
        [day] = scene.days
        world = scene.sandbox.world
        made = [
            build_as_of(one, world.now_ms()) for one in world.builds(world.first_and_last_day()[0])
        ]
        spared = [one for one in made if one and one["state"] == "skipped"]
        for number, state in enumerate(["skipped", "not_run", "running"], 4_000_000):
            created = {"created_at": f"{day}T10:00:00.000Z", "finished_at": None}
            world.add_build(build(number, state=state, started_at=None, **created))

        [run] = backfill(scene, instance)

        sent = {event.data["trace.trace_id"] for event in scene.sandbox.honeycomb.events}
        found = run.results["spans"].summary
        assert found.skipped == len(spared) + 2
        assert found.unfinished >= 1
        assert found.traces == len(sent)
        assert run.results["raw_builds"].stored == len(sent) + found.skipped + found.unfinished


@pytest.mark.parametrize("line", ["listed", "spans of"])
def test_interrupted_step_counts_what_it_stored(tmp_path, instance, monkeypatch, line):
    monkeypatch.setattr("bk_pipeline.store.raw.PART_BYTES", 1)  # a part per page

    def interrupt(told):
        if line in told:
            raise dg.DagsterExecutionInterruptedError  # as Dagster's handler of signals does

    with stage(tmp_path, builds_per_day=150) as scene:
        scene.services.progress = interrupt
        with pytest.raises(KeyboardInterrupt):
            backfill(scene, instance)
        [day] = scene.days
        made = scene.services.results.of_day(day)
    assert made["raw_builds"].stored == len(scene.services.raw().revisions(day)) > 0
    if line == "spans of":
        tables = scene.services.spans().newest(day, columns=IDS)
        assert made["spans"].summary.spans == sum(map(len, tables)) > 0
        assert made["spans"].summary.builds < made["raw_builds"].stored
