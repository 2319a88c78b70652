"""`dagster.yaml`, which no code imports: Dagster takes it, and what it promises holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from bk_pipeline.defs.code_location import code_location
from bk_pipeline.settings import Settings

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copy(PROJECT / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


def test_backfills_and_the_night_leave_a_place_for_the_sensor(instance):
    queue = instance.get_concurrency_config().run_queue_config
    limits = {one["key"]: one["limit"] for one in queue.tag_concurrency_limits}
    assert limits.keys() == {"dagster/backfill", "dagster/schedule_name"}
    assert sum(limits.values()) < queue.max_concurrent_runs


def test_the_pool_of_those_who_read_from_buildkite_holds_up_no_run_of_the_queue(instance):
    config = instance.get_concurrency_config()
    assert config.pool_config.default_pool_limit >= config.run_queue_config.max_concurrent_runs
    graph = code_location(Settings.of()).resolve_asset_graph()
    assert graph.get(dg.AssetKey("raw_builds")).pools == {"buildkite_api"}


def test_a_run_is_tried_again_only_if_its_process_died(instance):
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure


def test_a_run_that_hangs_is_ended_one_day(instance):
    assert instance.run_monitoring_enabled
    assert 0 < instance.run_monitoring_max_runtime_seconds <= 86_400
