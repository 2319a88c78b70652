from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from threading import Timer

import dagster as dg
import pytest
from click.testing import CliRunner

from bk_pipeline.app import App
from bk_pipeline.cli.commands import backfill
from bk_pipeline.cli.demo import environment
from bk_pipeline.cli.doctor import pools
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.home import local_instance
from bk_pipeline.defs.lost_runs import (
    PROCESS_TAG,
    end_lost_runs,
    held,
    leaked_slots,
    slot_waits_reported,
)
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.settings import Settings
from bk_pipeline_tests.cli.program import started, wait_until
from bk_pipeline_tests.worlds import stage

STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE
POOL = "buildkite_api"
# A process of a run, under the name of another host.
HOLDER = """
import socket, sys
socket.gethostname = lambda: sys.argv[3]
from types import SimpleNamespace
from bk_pipeline.defs.lost_runs import hold
hold(SimpleNamespace(root_directory=sys.argv[1], has_run=lambda _: False), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def instance():
    with local_instance() as made:
        yield made


def begun(instance, day="2026-11-20", *, slot=False) -> str:
    """A run that is under way as far as Dagster knows."""
    job = build_definitions(App(Settings.of())).resolve_job_def("sync_day")
    run = instance.create_run_for_job(job, tags={"dagster/partition": day}, status=STARTED)
    if slot:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(POOL)
        assert storage.claim_concurrency_slot(POOL, run.run_id, "raw_builds").is_claimed
    return run.run_id


@contextmanager
def process_of(instance, run_id, host="elsewhere"):
    """Another process that executes the run."""
    command = [sys.executable, "-c", HOLDER, instance.root_directory, run_id, host]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def status(instance, run_id) -> dg.DagsterRunStatus:
    return instance.get_run_by_id(run_id).status


def taken(instance) -> int:
    return instance.event_log_storage.get_concurrency_info(POOL).active_slot_count


def test_run_of_a_killed_process_is_ended_and_its_slots_are_freed(instance):
    run_id = begun(instance, slot=True)
    with process_of(instance, run_id):
        assert end_lost_runs(instance) == []
        assert (status(instance, run_id), taken(instance)) == (STARTED, 1)
    assert leaked_slots(instance) == {POOL: {run_id}}
    lost, freed = end_lost_runs(instance)
    assert run_id[:8] in lost
    assert POOL in freed
    assert (status(instance, run_id), taken(instance)) == (FAILURE, 0)
    assert end_lost_runs(instance) == []


def test_run_of_an_exited_process_is_left_to_dagster(instance):
    run_id = begun(instance)
    with process_of(instance, run_id) as process:
        process.communicate("")
    assert end_lost_runs(instance) == []
    assert status(instance, run_id) is STARTED


def test_run_of_another_host_is_left_alone(instance):
    run_id = begun(instance, slot=True)
    assert end_lost_runs(instance) == []
    assert (status(instance, run_id), taken(instance)) == (STARTED, 1)


@pytest.mark.parametrize("end", ["failed", "canceled"])
def test_slots_of_a_run_that_was_ended_by_hand_are_freed(instance, end):
    run_id = begun(instance, slot=True)
    run = instance.get_run_by_id(run_id)
    match end:
        case "failed":
            instance.report_run_failed(run)
        case "canceled":
            instance.report_run_canceled(run)
    assert taken(instance) == 1
    assert [POOL in one for one in end_lost_runs(instance)] == [True]
    assert taken(instance) == 0


def test_doctor_finds_leaked_slots_and_frees_none(instance):
    run_id = begun(instance, slot=True)
    assert not pools(None).is_warning
    instance.report_run_failed(instance.get_run_by_id(run_id))
    found = pools(None)
    assert found.is_warning
    assert run_id[:8] in found.message
    assert taken(instance) == 1


def test_doctor_makes_no_instance(tmp_path):
    assert not pools(None).is_warning
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_slot_names_the_run_that_holds_it(instance, monkeypatch):
    monkeypatch.setattr("bk_pipeline.defs.lost_runs.POLL_EVERY_S", 0.05)
    instance.event_log_storage.set_concurrency_slots(POOL, 1)
    holder, waiting = begun(instance, slot=False), begun(instance)
    claim = instance.event_log_storage.claim_concurrency_slot
    assert claim(POOL, holder, "raw_builds").is_claimed
    assert not claim(POOL, waiting, "raw_builds").is_claimed
    told = []
    with (
        process_of(instance, holder) as process,
        slot_waits_reported(instance, waiting, told.append),
    ):
        wait_until(lambda: told)
        assert f"pool {POOL}: its slot is taken by run {holder[:8]}" in told[0]
        process.kill()
        # The one that waits ends the lost run itself.
        wait_until(lambda: status(instance, holder) is FAILURE)
        wait_until(lambda: claim(POOL, waiting, "raw_builds").is_claimed)


def test_backfill_reports_that_it_waits_for_a_slot(tmp_path, instance, monkeypatch):
    monkeypatch.setattr("bk_pipeline.defs.lost_runs.POLL_EVERY_S", 0.05)
    storage = instance.event_log_storage
    storage.set_concurrency_slots(POOL, 1)
    holder, told = begun(instance), []
    assert storage.claim_concurrency_slot(POOL, holder, "raw_builds").is_claimed

    def tell(line):
        told.append(line)
        storage.free_concurrency_slots_for_run(holder)

    # Without a report the run ends too, so that this fails and does not hang.
    patience = Timer(60, storage.free_concurrency_slots_for_run, [holder])
    patience.start()
    with (
        stage(tmp_path / "data", builds_per_day=3) as scene,
        process_of(instance, holder),
    ):
        scene.services.on_wait = tell
        [run] = materialize_days(scene.services, scene.days, instance=instance)
    patience.cancel()
    assert run.error is None
    assert f"its slot is taken by run {holder[:8]}" in told[0]


def test_run_of_the_code_location_is_recorded_before_its_first_step(tmp_path, instance):
    with stage(tmp_path / "data") as scene:
        definitions = build_definitions(scene.services)
        seen = []

        @dg.op(required_resource_keys={"store"})
        def first(context) -> None:
            seen.append(context.instance.get_run_by_id(context.run_id).tags[PROCESS_TAG])

        @dg.job(resource_defs=definitions.resources)
        def another():
            first()

        assert another.execute_in_process(instance=instance).success
    assert seen[0].startswith(f"{os.getpid()} on ")


def test_file_of_a_run_is_deleted_with_it(instance):
    with held(instance, "a-run") as tags:
        assert tags[PROCESS_TAG].startswith(f"{os.getpid()} on ")
        assert leaked_slots(instance) == {}
        assert end_lost_runs(instance) == []
    assert end_lost_runs(instance) == []


def test_sensor_requests_the_day_of_a_lost_run_again(tmp_path, instance):
    with stage(tmp_path / "data") as scene:
        build = scene.sandbox.world.finish_build_now()
        day = build["created_at"][:10]
        run_id = begun(instance, day)
        with process_of(instance, run_id):
            pass
        definitions = build_definitions(scene.services)
        context = dg.build_sensor_context(instance, definitions=definitions)
        result = definitions.resolve_sensor_def("builds_sensor").evaluate_tick(context)
    assert status(instance, run_id) is FAILURE
    assert day in [request.partition_key for request in result.run_requests]


def test_killed_backfills_do_not_block_others(tmp_path):
    """With one slot, and kills as soon as a run is known: mostly before its first step."""
    with stage(tmp_path / "data", live=True) as scene, local_instance() as instance:
        [day] = scene.days
        settings = environment(scene.sandbox, scene.url)
        scene.sandbox.faults.inject("buildkite", "slow", seconds=600, count=100)
        instance.event_log_storage.set_concurrency_slots(POOL, 1)
        for has_begun in (instance.get_runs, lambda: taken(instance)):
            arguments = ("backfill", "--from", day, "--to", day)
            with started(*arguments, cwd=tmp_path, **settings) as process:
                wait_until(has_begun)
                process.send_signal(signal.SIGKILL)
        scene.sandbox.faults.clear()
        done = CliRunner().invoke(backfill, ["--from", day, "--to", day], env=settings)
        assert done.exception is None, done.output
        assert "1 of 1 day" in done.output
        assert taken(instance) == 0
        runs = instance.get_runs()
    assert all(PROCESS_TAG in run.tags for run in runs)
    assert {run.status for run in runs} == {FAILURE, dg.DagsterRunStatus.SUCCESS}
