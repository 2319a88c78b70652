"""Runs `dagster dev` and `dg dev` as a user does, and controls them over GraphQL, as the UI does."""

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

from bk_pipeline_tests.cli.program import WITH_SIGINT
from bk_pipeline_tests.worlds import free_port

PROJECT = Path(__file__).parents[1]
# Enough for a machine that is four times busier.
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
LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } }
} } } }"""
ASSETS = "{ assetNodes { assetKey { path } } }"
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
    """A client of Dagster's GraphQL API.

    Args:
        port: The port of the web server.
        assets: The names of the assets to materialize or backfill.
    """

    def __init__(self, port: int, assets: Sequence[str] = ()) -> None:
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

    def locations(self) -> list[Any]:
        """Return the code locations, each with its load status and error."""
        return self.ask(LOCATIONS)["workspaceOrError"]["locationEntries"]

    def asset_keys(self) -> set[str]:
        """Return the keys of all assets, their parts separated by slashes."""
        return {"/".join(one["assetKey"]["path"]) for one in self.ask(ASSETS)["assetNodes"]}

    def materialize(self, day: str) -> str:
        """Launch a run of the day, as the Materialize button does; return its id."""
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
        """Launch a backfill of the days; return its id."""
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
        """Return the ids of all backfills."""
        found = self.ask(BACKFILLS)["partitionBackfillsOrError"]
        return [one["id"] for one in found["results"]]

    def materialized(self, asset: str) -> set[str]:
        node = self.ask(MATERIALIZED, key={"path": [asset]})["assetNodeOrError"]
        return {one["partition"] for one in node["assetMaterializations"]}


@contextmanager
def dagster_dev(
    folder: Path, settings: Mapping[str, str], *, assets: Sequence[str]
) -> Iterator[Dagster]:
    """Run what `make dev` runs, with `folder`/home as DAGSTER_HOME."""
    command = [sys.executable, "-m", "bk_pipeline.defs.dev", "-w", str(PROJECT / "workspace.yaml")]
    env = {**os.environ, **settings, "DAGSTER_HOME": str(folder / "home")}
    with served(command, folder, env=env, cwd=PROJECT, assets=assets) as running:
        yield running


@contextmanager
def served(
    command: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str],
    cwd: Path,
    assets: Sequence[str] = (),
) -> Iterator[Dagster]:
    """Run a command that serves Dagster's UI until it responds; interrupt it at the end.

    Its output is in `folder`/dagster.log. When it has ended, none of its processes is left.
    """
    port = free_port()
    with (folder / "dagster.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_SIGINT, *command, "-h", "127.0.0.1", "-p", str(port)],
            env=env,
            cwd=cwd,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            running = Dagster(port, assets)
            wait_for(lambda: running.answers() or process.poll() is not None)
            assert process.poll() is None, (folder / "dagster.log").read_text()
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=PATIENCE_S)
            wait_for(lambda: not _group_is_alive(process.pid))


def _group_is_alive(group: int) -> bool:
    """Return whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(
    what: Callable[[], bool], *, patience_s: float = PATIENCE_S, every_s: float = 0.25
) -> None:
    """Poll `what` until it is true: other processes do not report their progress."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(every_s)
