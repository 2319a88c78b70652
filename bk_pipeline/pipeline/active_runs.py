"""The metric `cicd.pipeline.run.active`: how many builds are active, by pipeline and state.

The sensor's own listing is of finished builds, so this takes requests of its own, which a setting
allows. The numbers are gauges: one that is lost is replaced at the next poll, so neither the
ledger nor a retry is involved, and nothing that fails here may stop the sensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.metrics.points import (
    ACTIVE_RUNS,
    EXECUTING,
    FINALIZING,
    ORGANIZATION,
    PENDING,
    PIPELINE,
    PIPELINE_NAME,
    RUN_STATE,
    Point,
)
from bk_pipeline.errors import PipelineError
from bk_pipeline.spans.timing import to_ns
from bk_pipeline.units import S_PER_DAY

if TYPE_CHECKING:
    from bk_pipeline.buildkite.client import BuildkiteClient
    from bk_pipeline.buildkite.records import ActiveBuild
    from bk_pipeline.spans.privacy import Privacy

# Buildkite's states of a build that has not ended -> `cicd.pipeline.run.state`. A build that waits
# at a block step is in none of them: it has finished, until a person unblocks it.
STATES = {
    "creating": PENDING,
    "scheduled": PENDING,
    "running": EXECUTING,
    "failing": EXECUTING,
    "canceling": FINALIZING,
}
RUN_STATES = (PENDING, EXECUTING, FINALIZING)
# 1,000 active builds. With more of them, or after so many seconds, nothing is reported.
MOST_PAGES = 10
MOST_SECONDS = 10.0
TOO_MANY = (
    f"Active builds are not reported: there are more than {MOST_PAGES * 100:,}, or listing them took "
    f"more than {MOST_SECONDS:.0f} s."
)
# The longest wait for Buildkite's quota and for an answer of Buildkite or of a destination.
PATIENCE_S = 5.0
# A pipeline without active builds is reported with zeros for so long.
KEPT_S = S_PER_DAY

BUILDKITE_NAME = "buildkite.pipeline.name"
# Name of a pipeline as it is shown (empty if names are dropped) -> when a build of it was last
# active, in seconds since 1970.
LastActive = dict[str, int]


def report_active_runs(
    client: BuildkiteClient,
    destinations: Iterable[OtlpMetrics],
    last_active: LastActive,
    *,
    privacy: Privacy,
    clock: Clock,
) -> tuple[LastActive, list[str]]:
    """Send the number of active builds to all destinations.

    Args:
        client: Lists the builds.
        destinations: Where to send; one that fails does not keep the others from it.
        last_active: What the last call returned.
        privacy: What is dropped, hashed and masked.
        clock: The time of the points is when the listing began.

    Returns:
        The pipelines to report next time, and a message for each failure.

    Raises:
        PipelineError: Buildkite could not be asked, or refuses.
    """
    now = clock.now()
    builds = client.active_builds(
        [*STATES],
        before=now,
        max_pages=MOST_PAGES,
        until_s=clock.monotonic() + MOST_SECONDS,
    )
    if builds is None:
        return last_active, [TOO_MANY]
    organization, names = shown_names(client.organization, builds, privacy)
    counts = Counter(zip(names, (STATES.get(one.state) for one in builds), strict=True))
    last_active = _still_reported(last_active, names, now)
    points = active_points(counts, sorted(last_active), organization, now)
    return last_active, _send(points, destinations) if points else []


def _send(points: Sequence[Point], destinations: Iterable[OtlpMetrics]) -> list[str]:
    """Send `points` to each destination; return a message for each failure."""
    messages = []
    for destination in destinations:
        try:
            message = destination.report(points, within_s=PATIENCE_S)
        except PipelineError as exc:
            message = str(exc)
        if message:
            messages.append(f"Active builds were not all reported: {message}")
    return messages


def shown_names(
    organization: str, builds: Sequence[ActiveBuild], privacy: Privacy
) -> tuple[str | None, list[str]]:
    """Return the organization's slug and the builds' pipeline names as spans show them.

    They go through the same rules as a span table's columns. A dropped name is empty.
    """
    none = [None] * (len(builds) + 1)
    table = pa.table(
        {
            ORGANIZATION: [organization, *none[1:]],
            PIPELINE: [None, *(one.pipeline for one in builds)],
            BUILDKITE_NAME: [None, *(one.pipeline_name for one in builds)],
            PIPELINE_NAME: [None, *(one.pipeline_name or one.pipeline for one in builds)],
        },
        pa.schema([(name, pa.string()) for name in _COLUMNS]),
    )
    shown = privacy.apply(table)
    names = shown[PIPELINE_NAME].to_pylist()[1:]
    return shown[ORGANIZATION][0].as_py(), [name or "" for name in names]


_COLUMNS = (ORGANIZATION, PIPELINE, BUILDKITE_NAME, PIPELINE_NAME)


def _still_reported(last_active: LastActive, names: Iterable[str], now: datetime) -> LastActive:
    """Return the pipelines to report: those with active builds now or in the last day."""
    seconds = int(now.timestamp())
    merged = {**last_active, **dict.fromkeys(names, seconds)}
    return {name: at for name, at in merged.items() if seconds - at <= KEPT_S}


def active_points(
    counts: Mapping[tuple[str, str | None], int],
    names: Sequence[str],
    organization: str | None,
    now: datetime,
) -> list[Point]:
    """Return a point for each pipeline and state; zero where nothing is active. Pure."""
    shared = ((ORGANIZATION, organization),) if organization else ()
    return [
        Point(
            ACTIVE_RUNS,
            (*shared, *(((PIPELINE_NAME, name),) if name else ()), (RUN_STATE, state)),
            start_ns=0,
            time_ns=to_ns(now),
            count=counts.get((name, state), 0),
            histogram=None,
        )
        for name in names
        for state in RUN_STATES
    ]
