"""Checks that fail where something is wrong: it is planted here, each time one thing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.store.spans import PartSummary, SpanPart
from bk_pipeline_tests.worlds import stage


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def scene(tmp_path):
    """Two complete days, both read, transformed and delivered."""
    with stage(tmp_path / "data", days=2, builds_per_day=17) as made:
        job = build_definitions(made.services).resolve_job_def("sync_day")
        for day in made.days:
            assert job.execute_in_process(partition_key=day).success
        yield made


@pytest.fixture
def audit(scene, instance):
    """Runs the nightly job; the evaluations by name."""

    def run() -> dict[str, dg.AssetCheckEvaluation]:
        definitions = build_definitions(scene.services)
        done = definitions.resolve_job_def("audit_days").execute_in_process(instance=instance)
        return {one.check_name: one for one in done.get_asset_check_evaluations()}

    return run


def failed(evaluations) -> set[str]:
    return {name for name, one in evaluations.items() if not one.passed}


def first_offender(evaluation) -> str:
    return evaluation.metadata["first"].value[0]


def test_all_checks_pass_on_sound_data(scene, audit):
    found = audit()
    assert {"complete", "fresh", "no_orphans", "no_negative_durations"} <= set(found)
    assert failed(found) == set()
    assert found["complete"].metadata["days"].value == ", ".join(scene.days)
    assert found["complete"].metadata["builds"].value > 15
    assert found["no_orphans"].metadata["spans"].value > 100


def test_lost_part_fails_the_completeness_check(scene, audit):
    raw = Path(scene.services.settings.storage) / "raw" / scene.days[0]
    next(raw.glob("*.parquet")).unlink()
    found = audit()
    assert failed(found) == {"complete"}
    assert first_offender(found["complete"]).startswith(f"{scene.days[0]}: ")
    assert found["complete"].metadata["count"].value > 5


def missed_build(scene, **fields):
    """A build of the first day that finished before the day was read."""
    day = scene.days[0]
    return scene.sandbox.world.finish_build_now() | {
        "id": "0199b0b0-0000-4000-8000-000000000001",
        "number": 77,
        "created_at": f"{day}T12:00:00.000Z",
        "finished_at": f"{day}T12:00:09.000Z",
        **fields,
    }


def test_build_that_no_run_saw_is_reported_missing(scene, audit):
    scene.sandbox.world.add_build(missed_build(scene))
    found = audit()
    assert failed(found) == {"complete"}
    assert "#77 (0199b0b0-0000-4000-8000-000000000001, " in first_offender(found["complete"])
    hidden = ",".join(f"buildkite.{one}" for one in ("pipeline.slug", "build.number", "build.id"))
    scene.services = scene.services.changed({"BK_PIPELINE_SPANS_DROP": hidden})
    assert f"{scene.days[0]}: ?#? (?, " in first_offender(audit()["complete"])


def test_builds_finished_after_the_last_read_are_not_missing(scene, audit):
    now = scene.clock.now() + timedelta(seconds=1)
    scene.sandbox.world.add_build(missed_build(scene, finished_at=now.isoformat()))
    assert failed(audit()) == set()


def test_completeness_costs_a_request_for_a_hundred_builds_without_jobs(scene, audit):
    before = scene.sandbox.buildkite.request_count
    audit()
    assert scene.sandbox.buildkite.request_count == before + len(scene.days)


def test_waits_of_a_check_are_logged(scene, audit, instance):
    scene.sandbox.faults.inject("buildkite", "status")
    assert failed(audit()) == set()
    [run] = instance.get_runs()
    logged = [one.user_message for one in instance.all_logs(run.run_id)]
    assert len([one for one in logged if "Attempt 2 follows in" in one]) == 1


def plant(scene, change) -> None:
    """A span part of a later fetch in which `change` has been made to one table."""
    spans, day = scene.services.spans(), scene.days[0]
    [part, *_] = spans.parts(day)
    tables = list(spans.tables(day, part))
    tables[0] = change(tables[0])
    newer = SpanPart("9" + part.raw_part[1:], part.fingerprint)
    spans.write(day, newer, tables, PartSummary())


def without_a_step(table: pa.Table) -> pa.Table:
    names = table["name"].to_pylist()
    lost = names.index("buildkite.step")
    return table.take([row for row in range(len(names)) if row != lost])


def reversed_span(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("end")
    ends = table["end"].to_pylist()
    ends[3] -= timedelta(days=40)
    return table.set_column(at, table.schema.field(at), pa.array(ends, table.schema.field(at).type))


def test_span_without_its_parent_is_an_orphan(scene, audit):
    plant(scene, without_a_step)
    found = audit()
    assert failed(found) == {"no_orphans"}
    assert first_offender(found["no_orphans"]).startswith(f"{scene.days[0]}: ")
    assert first_offender(found["no_orphans"]).endswith(", a buildkite.job")


def test_negative_duration_is_found(scene, audit):
    plant(scene, reversed_span)
    found = audit()
    assert failed(found) == {"no_negative_durations"}
    assert found["no_negative_durations"].metadata["count"].value == 1


def test_day_not_read_after_its_end_is_not_fresh(scene, audit, clock):
    clock.moment = scene.clock.now()
    scene.services.clock = clock
    assert failed(audit()) == set()
    clock.moment += timedelta(days=2)
    found = audit()
    assert failed(found) == {"fresh"}
    assert first_offender(found["fresh"]).endswith("was last read never.")


def run_as_the_button_does(scene, instance, *assets):
    definitions = build_definitions(scene.services)
    keys = [dg.AssetKey(name) for name in assets]
    job = definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        partition_key=scene.days[0], instance=instance, asset_selection=keys
    )
    return {one.check_name: one for one in done.get_asset_check_evaluations()}


def test_extracting_run_skips_the_completeness_check(scene, instance):
    before = scene.sandbox.buildkite.request_count
    found = run_as_the_button_does(scene, instance, "raw_builds", "spans")
    assert "complete" not in found
    assert found["no_orphans"].metadata["days"].value == scene.days[0]
    assert scene.sandbox.buildkite.request_count == before + 1


def test_sync_day_executes_none_of_them(scene, instance):
    job = build_definitions(scene.services).resolve_job_def("sync_day")
    done = job.execute_in_process(partition_key=scene.days[0], instance=instance)
    names = {one.check_name for one in done.get_asset_check_evaluations()}
    assert names == {"no_quarantined_builds", "all_accepted"}


def test_every_check_says_what_to_do(scene):
    graph = build_definitions(scene.services).resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert "If " in graph.get_check_spec(key).description, key


def test_nightly_audit_is_off_by_default(scene):
    schedule = build_definitions(scene.services).resolve_schedule_def("nightly_audit")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
