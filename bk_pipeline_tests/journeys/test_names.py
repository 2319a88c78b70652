"""Names of the organization and its clusters, against the sandbox, with and without the scopes."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from datetime import timedelta

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.pipeline import ask_again, transform_day
from bk_pipeline.settings import Settings
from bk_pipeline.spans.table import rows
from bk_pipeline.store.folder import QUARANTINED
from bk_pipeline_tests.conftest import FakeClock
from bk_pipeline_tests.store.object_store import object_store
from bk_pipeline_tests.worlds import PRESENT, stage

ORGANIZATION, CLUSTERS = "/v2/organizations/acme", "/v2/organizations/acme/clusters"
OF_ORGANIZATION = {"buildkite.organization.id", "buildkite.organization.name"}
OF_CLUSTER = {"buildkite.cluster.name", "buildkite.cluster.graphql_id"}
SCOPES = {"read_organizations": OF_ORGANIZATION, "read_clusters": OF_CLUSTER}


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def clock():
    return FakeClock(PRESENT)


@pytest.fixture
def scene(tmp_path, clock):
    settings = {"BK_PIPELINE_HTTP_DEADLINE_S": "0"}
    with stage(tmp_path / "data", builds_per_day=17, clock=clock, **settings) as made:
        yield made


def with_scopes(scene, *scopes: str) -> App:
    token = scene.sandbox.add_token(["read_builds", *scopes])
    return scene.services.changed({"BUILDKITE_API_TOKEN": token})


def refresh(app: App) -> list[str]:
    """Refresh the names as a run does before each partition; return its warnings."""
    warnings: list[str] = []
    with app.buildkite() as client:
        app.refresh_names(client, warn=warnings.append)
    return warnings


def asked(scene) -> Counter[str]:
    """How often each of the two endpoints was asked."""
    paths = [path for _, path, _ in scene.sandbox.buildkite.requests]
    return Counter(path for path in paths if path in {ORGANIZATION, CLUSTERS})


def sync(app: App, day: str) -> None:
    assert (
        build_definitions(app)
        .resolve_job_def("sync_day")
        .execute_in_process(partition_key=day)
        .success
    )


def resources(app: App, day: str) -> list[dict]:
    spans = app.spans()
    tables = (table for part in spans.parts(day) for table in spans.tables(day, part))
    return [span["resource"] for table in tables for span in rows(table)]


def keys_of(app: App, day: str) -> set[str]:
    return set().union(*resources(app, day)) & (OF_ORGANIZATION | OF_CLUSTER)


@pytest.mark.parametrize(
    "scopes",
    [("read_organizations", "read_clusters"), ("read_organizations",), ("read_clusters",), ()],
)
def test_each_scope_brings_its_attributes_to_the_table_and_the_destination(scene, scopes):
    app, [day] = with_scopes(scene, *scopes), scene.days
    sync(app, day)
    expected = set().union(*(SCOPES[scope] for scope in scopes))
    assert keys_of(app, day) == expected
    events = [one.data for one in scene.sandbox.honeycomb.events]
    assert expected == set().union(*events) & (OF_ORGANIZATION | OF_CLUSTER)
    clusters = {one["id"]: one for one in scene.sandbox.world.organization.clusters}
    for one in resources(app, day):
        if "read_clusters" in scopes and "buildkite.cluster.id" in one:
            cluster = clusters[one["buildkite.cluster.id"]]
            assert one["buildkite.cluster.name"] == cluster["name"]
            assert one["buildkite.cluster.graphql_id"] == cluster["graphql_id"]
        if "read_organizations" in scopes:
            assert one["buildkite.organization.name"] == "Acme (sandbox)"
    assert asked(scene) == {ORGANIZATION: 1, CLUSTERS: 1}


@pytest.mark.parametrize("scopes", [tuple(SCOPES), ()])
def test_two_requests_a_utc_day_also_if_the_scopes_are_missing(scene, clock, scopes):
    app = with_scopes(scene, *scopes)
    for days in (1, 2, 3):
        for _ in range(5):
            refresh(app)
            refresh(app.changed({}))  # another instance with the same data directory
            clock.sleep(3600)
        assert asked(scene) == {ORGANIZATION: days, CLUSTERS: days}
        clock.sleep((24 - 5) * 3600)


def _refresh_elsewhere(variables: dict[str, str]) -> None:
    refresh(App(Settings.of(**variables)))


def test_processes_that_start_together_ask_once(tmp_path):
    with stage(tmp_path / "data", live=True) as scene:
        scene.sandbox.faults.inject("buildkite", "slow", seconds=1.0, path=ORGANIZATION)
        given = scene.services.settings
        organization, token = given.require_buildkite()
        variables = {
            "BUILDKITE_API_TOKEN": token,
            "BUILDKITE_ORGANIZATION_SLUG": organization,
            "BUILDKITE_API_URL": scene.url,
            "BK_PIPELINE_DATA_DIR": str(tmp_path / "data"),
        }
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=_refresh_elsewhere, args=(variables,)) for _ in range(3)]
        for one in processes:
            one.start()
        for one in processes:
            one.join(120)
        assert [one.exitcode for one in processes] == [0, 0, 0]
        assert max(asked(scene).values()) <= 2  # 2 only if midnight passed between them


def test_a_backfill_of_several_days_asks_once(tmp_path, instance):
    with stage(tmp_path / "data", days=4, builds_per_day=5, clock=FakeClock(PRESENT)) as scene:
        runs = list(materialize_days(scene.services, scene.days, instance=instance))
        assert [run.error for run in runs] == [None] * len(runs)
        assert asked(scene) == {ORGANIZATION: 1, CLUSTERS: 1}
        assert keys_of(scene.services, scene.days[-1]) == OF_ORGANIZATION | OF_CLUSTER


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("status", {"status": 500}),
        ("status", {"status": 401}),
        ("status", {"status": 404, "body": {"message": "No organization found"}}),
        ("reset", {}),
        ("html", {}),
        ("cut_json", {}),
    ],
    ids=str,
)
def test_failures_of_the_two_requests_do_not_stop_the_day(scene, kind, details):
    for path in (ORGANIZATION, CLUSTERS):
        scene.sandbox.faults.inject("buildkite", kind, count=9, path=path, **details)
    [day] = scene.days
    sync(scene.services, day)
    assert keys_of(scene.services, day) == set()
    assert resources(scene.services, day)


def test_a_request_that_hangs_is_given_up_soon(scene, monkeypatch):
    monkeypatch.setattr("bk_pipeline.buildkite.client.NAMES_DEADLINE_S", 0.5)
    scene.sandbox.faults.inject("buildkite", "hang", path=CLUSTERS)
    [warning] = refresh(scene.services)
    assert "Spans may lack buildkite.cluster.name and buildkite.cluster.graphql_id" in warning
    assert scene.services.raw().organizations.names().kinds == ("organizations",)


def test_a_failure_is_repeated_after_an_hour_and_then_the_names_are_known(scene, clock):
    scene.sandbox.faults.inject("buildkite", "status", status=500, path=ORGANIZATION)
    assert refresh(scene.services)
    clock.sleep(3500)
    assert refresh(scene.services) == []
    assert asked(scene) == {ORGANIZATION: 1, CLUSTERS: 1}
    clock.sleep(200)
    refresh(scene.services)
    assert asked(scene) == {ORGANIZATION: 2, CLUSTERS: 1}
    assert scene.services.raw().organizations.names().kinds == ("organizations", "clusters")


def test_spent_quota_is_not_recorded_as_a_failure(scene):
    body = {"scope": "rest", "limit": 200, "reset": 0}
    scene.sandbox.faults.inject("buildkite", "status", status=429, body=body, path=ORGANIZATION)
    refresh(scene.services)
    refresh(scene.services)
    assert asked(scene) == {ORGANIZATION: 2, CLUSTERS: 1}


def test_scope_added_later_brings_attributes_to_stored_days_and_sends_nothing_twice(scene, clock):
    [day] = scene.days
    sync(with_scopes(scene), day)
    sent = scene.sandbox.honeycomb.event_count
    app = with_scopes(scene, *SCOPES)
    assert ask_again(app.raw().organizations, "acme", ["read_clusters"]) == ["read_clusters"]
    sync(app, day)
    assert keys_of(app, day) == OF_CLUSTER
    clock.sleep(timedelta(days=1).total_seconds())
    sync(app, day)
    assert keys_of(app, day) == OF_CLUSTER | OF_ORGANIZATION
    assert scene.sandbox.honeycomb.event_count == sent
    assert scene.sandbox.honeycomb.duplicate_count == 0


def test_rename_or_withdrawn_scope_rebuilds_no_part_and_sends_nothing(scene, clock):
    app, [day] = scene.services, scene.days
    sync(app, day)
    parts, before = app.spans().all_parts(day), resources(app, day)
    sent = scene.sandbox.honeycomb.event_count
    scene.sandbox.world.organization.payload["name"] = "Acme, renamed"
    for one in scene.sandbox.world.organization.clusters:
        one["name"] = "renamed"
    clock.sleep(timedelta(days=1).total_seconds())
    sync(app, day)
    clock.sleep(timedelta(days=1).total_seconds())
    sync(with_scopes(scene), day)
    assert (app.spans().all_parts(day), resources(app, day)) == (parts, before)
    assert scene.sandbox.honeycomb.event_count == sent
    transform_day(day, raw=app.raw(), spans=app.spans(), full_refresh=True)
    names = {one["buildkite.organization.name"] for one in resources(app, day)}
    assert names == {"Acme, renamed"}


def test_deleted_cluster_keeps_its_name(scene, clock):
    app = scene.services
    refresh(app)
    clusters = scene.sandbox.world.organization.clusters
    [gone, *_] = list(clusters)
    clusters.clear()
    clock.sleep(timedelta(days=1).total_seconds())
    refresh(app)
    assert app.raw().organizations.read("acme").clusters[gone["id"]].name == gone["name"]


def flip_name(content: bytes) -> bytes:
    assert b"Acme" in content
    return content.replace(b"Acme", b"Bcme", 1)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda old: old[:-9], lambda _: b"[" * 9999, lambda _: b"\xff{}", flip_name],
    ids=["empty", "truncated", "nested", "not UTF-8", "flipped"],
)
def test_damaged_record_is_quarantined_and_fetched_again(scene, tmp_path, damage):
    app, [day] = scene.services, scene.days
    sync(app, day)
    file = tmp_path / "data" / "organizations" / "acme.json"
    file.write_bytes(damage(file.read_bytes()))
    [warning] = refresh(app)
    assert "organizations/acme.json" in warning
    assert list((tmp_path / "data" / QUARANTINED / "organizations").iterdir())
    assert asked(scene) == {ORGANIZATION: 2, CLUSTERS: 2}
    transform_day(day, raw=app.raw(), spans=app.spans(), full_refresh=True)
    assert keys_of(app, day) == OF_ORGANIZATION | OF_CLUSTER


def test_record_is_shared_in_an_object_store(tmp_path, clock):
    with object_store() as store:
        variables = {
            "BK_PIPELINE_DATA_DIR": store.uri("data"),
            "BK_PIPELINE_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
        }
        with stage(tmp_path, clock=clock, **variables) as scene:
            for _ in range(3):
                refresh(scene.services.changed({}))
            assert asked(scene) == {ORGANIZATION: 1, CLUSTERS: 1}
            known = scene.services.raw().organizations.names()
            assert known.kinds == ("organizations", "clusters")


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("two\nlines", "two\nlines"),
        ("ünïcödé \U0001f680", "ünïcödé \U0001f680"),
        (None, None),
        (17, None),
        ({"name": "x"}, None),
    ],
    ids=ascii,
)
def test_hostile_names_are_kept_or_absent_like_other_strings(scene, name, stored):
    app, [day] = scene.services, scene.days
    scene.sandbox.world.organization.payload["name"] = name
    clusters = scene.sandbox.world.organization.clusters
    clusters.insert(0, {"id": 7, "name": "no id"})
    for one in clusters:
        one["name"] = name
    sync(app, day)
    found = resources(app, day)
    assert {one.get("buildkite.organization.name") for one in found} == {stored}
    assert {one["buildkite.organization.id"] for one in found} == {
        scene.sandbox.world.organization.payload["id"]
    }
    in_clusters = [one for one in found if "buildkite.cluster.id" in one]
    assert {one.get("buildkite.cluster.name") for one in in_clusters} == {stored}


def test_long_name_is_truncated_and_unpaired_surrogate_replaced(scene):
    body = b'{"id": "a", "slug": "acme", "name": "\\ud83d' + b"x" * 100_000 + b'"}'
    fault = {"status": 200, "body": body.decode()}
    scene.sandbox.faults.inject("buildkite", "status", path=ORGANIZATION, **fault)
    refresh(scene.services)
    name = scene.services.raw().organizations.read("acme").organization.name
    assert len(name.encode()) <= 65_535
    assert name.startswith("\ufffdxxx")


def test_clusters_on_later_pages_are_read(scene):
    clusters = scene.sandbox.world.organization.clusters
    clusters += [{"id": f"c-{n}", "graphql_id": f"g-{n}", "name": f"n {n}"} for n in range(150)]
    refresh(scene.services)
    assert asked(scene) == {ORGANIZATION: 1, CLUSTERS: 2}
    known = scene.services.raw().organizations.read("acme").clusters
    assert known.keys() == {one["id"] for one in clusters}
