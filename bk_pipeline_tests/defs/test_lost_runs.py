from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg
import msgspec
import pytest
from click.testing import CliRunner

from bk_pipeline.cli.backfill import backfill
from bk_pipeline.cli.sandbox import environment
from bk_pipeline.defs.code_location import code_location
from bk_pipeline.defs.home import local_instance
from bk_pipeline.defs.lost_runs import PROCESS_TAG, Mark, end_lost_runs
from bk_pipeline.settings import Settings
from bk_pipeline_tests.worlds import stage

STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def killed() -> Mark:
    """The mark of a process that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = Mark.of("", process.pid)
    assert not mark.is_gone
    process.kill()
    process.communicate()
    return mark


def started_by(mark: Mark, instance, day="2026-11-20") -> str:
    """A run that the process with this mark is executing."""
    job = code_location(Settings.of()).resolve_job_def("sync_day")
    tags = {"dagster/partition": day}
    run_id = instance.create_run_for_job(job, tags=tags, status=STARTED).run_id
    mark = msgspec.structs.replace(mark, run=mark.run or run_id)
    instance.add_run_tags(run_id, {PROCESS_TAG: msgspec.json.encode(mark).decode()})
    return run_id


def status(instance, run_id) -> dg.DagsterRunStatus:
    return instance.get_run_by_id(run_id).status


def test_a_run_whose_process_was_killed_is_ended(instance, killed):
    run_id = started_by(killed, instance)
    [said] = end_lost_runs(instance)
    assert run_id[:8] in said
    assert status(instance, run_id) is FAILURE
    assert end_lost_runs(instance) == []


def test_a_run_that_is_being_executed_is_left_alone(instance):
    run_id = started_by(Mark.of("", os.getpid()), instance)
    assert end_lost_runs(instance) == []
    assert status(instance, run_id) is STARTED


@pytest.mark.parametrize("change", [{"boot": "before"}, {"started": "1"}])
def test_a_number_that_another_process_has_now_is_not_taken_for_the_old_one(instance, change):
    mark = msgspec.structs.replace(Mark.of("", os.getpid()), **change)
    run_id = started_by(mark, instance)
    end_lost_runs(instance)
    assert status(instance, run_id) is FAILURE


def test_of_another_host_nothing_is_known(instance, killed):
    run_id = started_by(msgspec.structs.replace(killed, place="elsewhere"), instance)
    assert end_lost_runs(instance) == []
    assert status(instance, run_id) is STARTED


def test_a_mark_that_was_copied_from_another_run_counts_for_nothing(instance, killed):
    started_by(msgspec.structs.replace(killed, run="the one before"), instance)
    assert end_lost_runs(instance) == []


@pytest.mark.parametrize("tag", ["", "nonsense", "[]"])
def test_a_run_without_a_mark_is_left_alone(instance, tag):
    job = code_location(Settings.of()).resolve_job_def("sync_day")
    tags = {PROCESS_TAG: tag} if tag else {}
    instance.create_run_for_job(job, tags=tags, status=STARTED)
    assert end_lost_runs(instance) == []


def test_a_run_is_marked_while_it_is_executed(tmp_path, instance):
    with stage(tmp_path) as scene:
        job = code_location(scene.services.settings, scene.services).resolve_job_def("sync_day")
        done = job.execute_in_process(partition_key=scene.days[0], instance=instance)
        tags = instance.get_run_by_id(done.run_id).tags
    assert msgspec.json.decode(tags[PROCESS_TAG], type=Mark) == Mark.of(done.run_id, os.getpid())


def test_the_sensor_asks_for_a_day_again_whose_run_was_lost(tmp_path, instance, killed):
    with stage(tmp_path) as scene:
        build = scene.sandbox.world.finish_build_now()
        day = build["created_at"][:10]
        run_id = started_by(killed, instance, day)
        definitions = code_location(scene.services.settings, scene.services)
        context = dg.build_sensor_context(instance, definitions=definitions)
        result = definitions.resolve_sensor_def("builds_sensor").evaluate_tick(context)
    assert status(instance, run_id) is FAILURE
    assert day in [request.partition_key for request in result.run_requests]


def test_a_backfill_ends_what_a_killed_one_left_behind(tmp_path, killed):
    with stage(tmp_path / "data", live=True) as scene, local_instance() as instance:
        [day] = scene.days
        run_id = started_by(killed, instance, day)
        settings = environment(scene.sandbox, scene.url)
        done = CliRunner().invoke(backfill, ["--from", day, "--to", day], env=settings)
        assert done.exception is None
        assert status(instance, run_id) is FAILURE
