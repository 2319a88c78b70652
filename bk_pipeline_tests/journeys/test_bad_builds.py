"""An unreadable build does not stop its day."""

from __future__ import annotations

import dagster as dg
import pytest

from bk_pipeline.defs.assets import assets_of
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import resources_of
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline_tests.cli.program import run as program
from bk_pipeline_tests.worlds import stage

BAD_ID = "018f0000-1111-7222-8333-00000000bad1"


@pytest.fixture
def scene(tmp_path):
    with stage(tmp_path / "data", builds_per_day=10) as made:
        [day] = made.days
        made.sandbox.world.add_build(
            {
                "id": BAD_ID,
                "number": 4_000_000,
                "state": "passed",
                "created_at": f"{day}T10:00:00.000Z",
                "finished_at": f"{day}T10:01:00.000Z",
                "url": "https://api.buildkite.com/v2/organizations/acme/pipelines/web/builds/4000000",
                "pipeline": {"slug": "web", "name": "Web"},
                "jobs": [{"id": "j1", "type": "script", "state": "passed", "exit_status": "zero"}],
            }
        )
        yield made


def test_unreadable_build_is_quarantined_and_the_others_are_delivered(scene, tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
    assert run.error is None
    assert [
        f"{one.build_id}: {one.reason}" for one in run.results["spans"].summary.quarantined
    ] == [f"{BAD_ID}: Expected `int | null`, got `str` - at `$.jobs[0].exit_status`"]
    honeycomb = scene.sandbox.honeycomb
    traces = {one.data["trace.trace_id"] for one in honeycomb.events}
    assert len(traces) > 5
    assert BAD_ID.replace("-", "") not in traces
    # The raw store keeps it.
    raw = scene.services.raw()
    [day] = scene.days
    assert BAD_ID in {revision.build_id for revision in raw.revisions(day)}
    # The command lists it.
    done = program(
        "quarantined", cwd=tmp_path, BK_PIPELINE_DATA_DIR=scene.services.settings.data_dir
    )
    assert done.stdout.split("\t")[:2] == [day, BAD_ID]


def test_check_reports_a_quarantined_build_on_every_run(scene):
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            result = dg.materialize(
                assets_of(scene.services, Naming()),
                partition_key=scene.days[0],
                instance=instance,
                resources=resources_of(scene.services, Naming()),
            )
            checks = {one.check_name: one for one in result.get_asset_check_evaluations()}
            assert not checks["no_quarantined_builds"].passed
            assert checks["all_accepted"].passed
