"""Latency from a build's finish to its spans at the destination, with `dagster dev` and its sensor.

Everything as a user has it: the project's own `dagster.yaml`, the sensor at its default
interval, Buildkite's rate limits kept. Builds finish at different moments between two ticks.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from benchmarks.figures import Bound, Figure, Report
from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.server import Sandbox
from bk_pipeline_tests.dagster_dev import dagster_dev, wait_for
from bk_pipeline_tests.worlds import stage

ASSETS = ("raw_builds", "spans", "honeycomb_events")
BUILDS = 5
BUILDS_PER_DAY = 1_000
# Delay between a delivery and the next finish, so that finishes are spread over the interval.
PAUSES_S = 7.0
# The required latency: under two minutes.
MOST_S = 120.0


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    folder = scratch / "live"
    with stage(folder / "data", builds_per_day=BUILDS_PER_DAY, limits=True) as scene:
        settings = environment(scene.sandbox, scene.url) | {
            "BK_PIPELINE_DATA_DIR": str(folder / "data")
        }
        with dagster_dev(folder, settings, assets=ASSETS) as dagster:
            dagster.start_sensor("builds_sensor")
            # The first run of a day lists all of it, so it is not measured.
            _delivered_s(scene.sandbox)
            seconds = []
            for _ in range(BUILDS):
                time.sleep(PAUSES_S)
                seconds.append(_delivered_s(scene.sandbox))
            interval = scene.services.settings.sensor_interval_s
    return Report(
        title="live: from a build's finish to its spans at the destination",
        columns=("build", "seconds"),
        rows=[(str(number), f"{one:.1f}") for number, one in enumerate(seconds, 1)],
        figures=[
            Figure("sync.finish_to_delivered_s", max(seconds), Bound(most=MOST_S)),
            Figure("sync.finish_to_delivered_median_s", median(seconds)),
        ],
        notes=[
            f"The longest of {BUILDS}, on a day of about {BUILDS_PER_DAY:,}; a tick every {interval} s."
        ],
    )


def _delivered_s(sandbox: Sandbox) -> float:
    """Finish a build, and return the seconds until its spans are stored."""
    began = time.monotonic()
    trace = sandbox.world.finish_build_now()["id"].replace("-", "")
    wait_for(lambda: _is_stored(sandbox, trace), every_s=0.5)
    return time.monotonic() - began


def _is_stored(sandbox: Sandbox, trace: str) -> bool:
    return any(event.data.get("trace.trace_id") == trace for event in sandbox.honeycomb.events)
