"""A running `dagster dev`, as a user has it, driven as the UI drives it: over its GraphQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from bk_pipeline_tests.cli.program import MINDFUL
from bk_pipeline_tests.worlds import free_port

PROJECT = Path(__file__).parents[1]
# As long as a machine four times busier needs.
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
RUN_STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
BACKFILL_STATUS = """
query($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
}"""
BACKFILLS = """
{ partitionBackfillsOrError { ... on PartitionBackfills { results { id } } } }"""
MATERIALIZED = """
query($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode { assetMaterializations { partition } }
  }
}"""
REPOSITORY = {
    "repositoryLocationName": "bk_pipeline.definitions",
    "repositoryName": "__repository__",
}


class Dagster:
    """Asked over GraphQL. `assets` are those that a materialization or backfill is for."""

    def __init__(self, port: int, assets: Sequence[str]) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._assets = [{"path": [name]} for name in assets]

    def ask(self, query: str, **variables: Any) -> Any:
        answer = requests.post(
            f"{self.address}/graphql", json={"query": query, "variables": variables}, timeout=60
        ).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def answers(self) -> bool:
        try:
            return bool(self.ask("{ version }"))
        except requests.RequestException:
            return False

    def materialize(self, day: str) -> str:
        """The id of a run of the day, asked for as the Materialize button does."""
        launched = self.ask(
            MATERIALIZE,
            params={
                "selector": {
                    **REPOSITORY,
                    "pipelineName": "__ASSET_JOB",
                    "assetSelection": self._assets,
                },
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": day}]},
                "runConfigData": {},
                "mode": "default",
            },
        )["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def backfill(self, days: Sequence[str]) -> str:
        """The id of a backfill of the days."""
        params = {"assetSelection": self._assets, "partitionNames": days}
        launched = self.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def start_sensor(self, name: str) -> None:
        selector = {**REPOSITORY, "sensorName": name}
        started = self.ask(START_SENSOR, selector=selector)["startSensor"]
        assert started["__typename"] == "Sensor", started

    def run_status(self, run_id: str) -> str:
        return self.ask(RUN_STATUS, id=run_id)["runOrError"]["status"]

    def backfill_status(self, backfill_id: str) -> str:
        return self.ask(BACKFILL_STATUS, id=backfill_id)["partitionBackfillOrError"]["status"]

    def backfills(self) -> list[str]:
        """The ids of all backfills."""
        found = self.ask(BACKFILLS)["partitionBackfillsOrError"]
        return [one["id"] for one in found["results"]]

    def materialized(self, asset: str) -> set[str]:
        node = self.ask(MATERIALIZED, key={"path": [asset]})["assetNodeOrError"]
        return {one["partition"] for one in node["assetMaterializations"]}


@contextmanager
def dagster_dev(
    folder: Path, settings: Mapping[str, str], *, assets: Sequence[str]
) -> Iterator[Dagster]:
    """What `make dev` runs, at home in `folder`/home.

    What it prints is in `folder`/dagster.log.
    """
    home = folder / "home"
    port = free_port()
    env = {**os.environ, **settings, "DAGSTER_HOME": str(home)}
    command = [sys.executable, "-c", MINDFUL, sys.executable, "-m", "bk_pipeline.defs.dev"]
    command += ["-w", PROJECT / "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    with (folder / "dagster.log").open("w") as log:
        process = subprocess.Popen(
            command, env=env, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            running = Dagster(port, assets)
            wait_for(running.answers)
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=PATIENCE_S)


def wait_for(
    what: Callable[[], bool], *, patience_s: float = PATIENCE_S, every_s: float = 0.25
) -> None:
    """Ask until it is so: nothing else tells a process outside that another has come so far."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(every_s)
