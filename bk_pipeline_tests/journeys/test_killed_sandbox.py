"""The services are killed during a run and started again."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import pytest
import requests

from bk_pipeline.app import App
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.settings import Settings
from bk_pipeline_tests.worlds import free_port, last_thursday

BUILDS_PER_DAY = 500
PATIENCE_S = 60.0


@contextmanager
def sandbox(port: int) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run `bk-pipeline sandbox` as a process; yield it and the settings that it prints."""
    command = [Path(sys.executable).with_name("bk-pipeline"), "sandbox", "--port", str(port)]
    command += ["--days", "1", "--builds-per-day", str(BUILDS_PER_DAY)]
    command += ["--today", last_thursday().isoformat()]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        exports: dict[str, str] = {}
        while "DAGSTER_HOME" not in exports:
            name, _, value = process.stdout.readline().removeprefix("export ").partition("=")
            exports[name] = value.strip()
        del exports["DAGSTER_HOME"]
        yield process, exports
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


def kill_after(process: subprocess.Popen[str], url: str, counter: str, requests_count: int) -> None:
    """Kill the process as soon as it has received `requests_count` requests."""
    deadline = time.monotonic() + PATIENCE_S
    with suppress(requests.RequestException):
        while time.monotonic() < deadline:
            stored = requests.get(f"{url}/_sandbox/stored", timeout=10).json()
            if stored[counter] >= requests_count:
                break
            time.sleep(0.005)
    process.kill()


def listed_ids(settings: Settings, day: str) -> set[str]:
    """Return the ids of the day's builds, read without the code under test."""
    organization, token = settings.require_buildkite()
    url = f"{settings.buildkite_api_url}/v2/organizations/{organization}/builds"
    query = {
        "per_page": "100",
        "created_from": f"{day}T00:00:00Z",
        "created_to": f"{day}T23:59:59.999Z",
    }
    found: set[str] = set()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        answer = session.get(url, params=query, timeout=30)
        while True:
            found |= {build["id"] for build in answer.json()}
            if "next" not in answer.links:
                return found
            answer = session.get(answer.links["next"]["url"], timeout=30)


@pytest.mark.parametrize(
    ("service", "counter"),
    [("buildkite", "buildkite_requests"), ("honeycomb", "honeycomb_requests")],
    ids=["while extracting", "while delivering"],
)
def test_run_fails_with_a_clear_error_and_the_next_completes_the_day(tmp_path, service, counter):
    port = free_port()
    with dg.DagsterInstance.ephemeral() as instance:
        with sandbox(port) as (process, exports):
            url = exports["BUILDKITE_API_URL"]
            # From the third on, responses are slow, so that the kill falls into the run.
            requests.post(
                f"{url}/_sandbox/faults",
                json={"service": service, "kind": "slow", "seconds": 2, "count": 50, "after": 2},
                timeout=10,
            ).raise_for_status()
            killer = threading.Thread(target=kill_after, args=(process, url, counter, 3))
            killer.start()
            exports["BK_PIPELINE_DATA_DIR"] = str(tmp_path)
            settings = Settings.of(**exports)
            services = App(settings, retries=0)
            # A short deadline, because the killed sandbox does not come back.
            impatient = App(Settings.of(**exports, BK_PIPELINE_HTTP_DEADLINE_S="1"), retries=0)
            day = settings.start_date.isoformat()
            [failed] = materialize_days(impatient, [day], instance=instance)
            killer.join()
        assert failed.error is not None
        assert f"127.0.0.1:{port}" in failed.error
        assert "Gave up after" in failed.error
        with sandbox(port) as (_, exports):
            [run] = materialize_days(services, [day], instance=instance)
            assert run.error is None
            stored = requests.get(f"{url}/_sandbox/stored", timeout=10).json()
            listed = listed_ids(settings, day)
    raw = services.raw()
    records = sum(len(g) for part in raw.parts(day) for g in raw.payloads(day, part))
    assert {revision.build_id for revision in raw.revisions(day)} == listed
    assert len(listed) == records
    assert stored["duplicate_count"] == 0
    # The events in this sandbox and those that the killed one accepted are all events.
    assert stored["event_count"] == run.results["honeycomb_events"].accepted
    with services.ledger() as ledger:
        [destination] = ledger.destinations()
        accepted = ledger.summary(destination).accepted
    before = run.results["honeycomb_events"].already_settled
    assert accepted == stored["event_count"] + before
