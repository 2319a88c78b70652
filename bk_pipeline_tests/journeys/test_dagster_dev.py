"""`dagster dev` as a user has it, driven as the UI drives it: over its GraphQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from bk_pipeline.cli.sandbox import environment
from bk_pipeline_tests.worlds import free_port, stage

PROJECT = Path(__file__).parents[2]
PATIENCE_S = 300.0

MATERIALIZE = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""
START_SENSOR = """
mutation($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on PythonError { message } }
}"""
REPOSITORY = {
    "repositoryLocationName": "bk_pipeline.definitions",
    "repositoryName": "__repository__",
}
ASSETS = [{"path": [name]} for name in ("raw_builds", "spans", "honeycomb_events")]


class Dagster:
    """A running `dagster dev`, asked over GraphQL."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> Any:
        answer = requests.post(
            self._url, json={"query": query, "variables": variables}, timeout=30
        ).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def answers(self) -> bool:
        try:
            return bool(self.ask("{ version }"))
        except requests.ConnectionError:
            return False

    def run_status(self, run_id: str) -> str:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return self.ask(query, id=run_id)["runOrError"]["status"]

    def backfill_status(self, backfill_id: str) -> str:
        query = """query($id: String!) {
          partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
        return self.ask(query, id=backfill_id)["partitionBackfillOrError"]["status"]

    def materialized(self, asset: str) -> set[str]:
        query = """query($key: AssetKeyInput!) {
          assetNodeOrError(assetKey: $key) { ... on AssetNode {
            assetMaterializations { partition } } } }"""
        node = self.ask(query, key={"path": [asset]})["assetNodeOrError"]
        return {one["partition"] for one in node["assetMaterializations"]}


def wait_for(what: Callable[[], bool]) -> None:
    """Ask until it is so: nothing else tells a process outside that another has come so far."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.25)


@pytest.fixture
def scene(tmp_path):
    with stage(tmp_path / "data", days=3, builds_per_day=10) as made:
        yield made


@pytest.fixture
def dagster(scene, tmp_path) -> Iterator[Dagster]:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    port = free_port()
    env = {
        **os.environ,
        **environment(scene.sandbox, scene.url),
        "BK_PIPELINE_DATA_DIR": str(tmp_path / "data"),
        "BK_PIPELINE_SENSOR_INTERVAL_S": "5",
        "DAGSTER_HOME": str(home),
    }
    binary = Path(sys.executable).with_name("dagster")
    subprocess.run([binary, "instance", "migrate"], env=env, check=True, capture_output=True)
    command = [binary, "dev", "-w", PROJECT / "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "dagster.log").open("w") as log:
        process = subprocess.Popen(
            command, env=env, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            running = Dagster(port)
            wait_for(running.answers)
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=PATIENCE_S)


# On a quiet machine it takes 100 s, and most of that is the backfill daemon's fixed tick.
@pytest.mark.timeout(1_200)
def test_a_day_materialized_by_hand_a_backfill_and_the_sensor(scene, dagster):
    honeycomb = scene.sandbox.honeycomb

    # One day, as the Materialize button asks for it.
    day, *_ = scene.days
    launched = dagster.ask(
        MATERIALIZE,
        params={
            "selector": {**REPOSITORY, "pipelineName": "__ASSET_JOB", "assetSelection": ASSETS},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": day}]},
            "runConfigData": {},
            "mode": "default",
        },
    )["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    wait_for(lambda: dagster.run_status(run_id) in {"SUCCESS", "FAILURE"})
    assert dagster.run_status(run_id) == "SUCCESS"
    assert dagster.materialized("honeycomb_events") == {day}
    first_day = honeycomb.event_count
    assert first_day > 0

    # A backfill over all days, the done one too.
    launched = dagster.ask(
        BACKFILL, params={"assetSelection": ASSETS, "partitionNames": scene.days}
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    wait_for(lambda: dagster.backfill_status(launched["backfillId"]).startswith("COMPLETED"))
    assert dagster.backfill_status(launched["backfillId"]) == "COMPLETED_SUCCESS"
    assert dagster.materialized("honeycomb_events") == set(scene.days)
    assert honeycomb.event_count > first_day
    assert honeycomb.duplicate_count == 0

    # The sensor: a build that finishes is delivered within two ticks, and once.
    started = dagster.ask(START_SENSOR, selector={**REPOSITORY, "sensorName": "builds_sensor"})[
        "startSensor"
    ]
    assert started["__typename"] == "Sensor", started
    build = scene.sandbox.world.finish_build_now()
    trace = build["id"].replace("-", "")

    def delivered() -> list[str]:
        events = [one.data for one in honeycomb.events]
        return [one["trace.span_id"] for one in events if one["trace.trace_id"] == trace]

    wait_for(lambda: bool(delivered()))
    ticked_again = scene.sandbox.buildkite.request_count + 3
    wait_for(lambda: scene.sandbox.buildkite.request_count >= ticked_again)
    assert len(delivered()) == len(set(delivered())) > 1
    assert honeycomb.duplicate_count == 0
