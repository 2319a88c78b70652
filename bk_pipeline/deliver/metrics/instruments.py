"""The declared metrics: name, unit, what is measured, of which spans, under which attributes.

To add a metric of what is measured already, add its row. Attributes are fields of the span
table, and mean here what `spans/fields.py` says of them.

The first four follow Buildkite's example for the Collector's signal-to-metrics connector, which
makes them of the spans of Buildkite's own notification service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from bk_pipeline.spans.model import SpanKind

ORGANIZATION, PIPELINE = "buildkite.organization.slug", "buildkite.pipeline.slug"
SOURCE, STATE = "buildkite.build.source", "buildkite.build.state"
STEP, EXIT_STATUS, PASSED = (
    "buildkite.step.key",
    "buildkite.job.exit_status",
    "buildkite.job.passed",
)
QUEUE = "buildkite.agent.queue"


class Measure(IntEnum):
    """What is measured of a build or job: its place among an item's numbers (`measurements.py`)."""

    COUNT = 0  # that it ended; the number is when, and always there
    DURATION_MS = 1  # from its span's start to its end, if it ran
    WAIT_MS = 2  # for an agent, if it got one


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric: a sum where it counts, a histogram where it measures."""

    name: str
    unit: str
    meaning: str
    kind: SpanKind
    measure: Measure
    attributes: tuple[str, ...]


BUILD_ATTRIBUTES = (ORGANIZATION, PIPELINE, SOURCE, STATE)
JOB_ATTRIBUTES = (ORGANIZATION, PIPELINE, SOURCE, STEP, EXIT_STATUS, PASSED)

# fmt: off
INSTRUMENTS: Sequence[Instrument] = (
    Instrument("buildkite.builds.count", "{build}", "Builds that finished.", SpanKind.BUILD, Measure.COUNT, BUILD_ATTRIBUTES),
    Instrument("buildkite.builds.duration", "ms", "How long builds took.", SpanKind.BUILD, Measure.DURATION_MS, BUILD_ATTRIBUTES),
    Instrument("buildkite.jobs.count", "{job}", "Jobs that ended.", SpanKind.JOB, Measure.COUNT, JOB_ATTRIBUTES),
    Instrument("buildkite.jobs.duration", "ms", "How long jobs ran.", SpanKind.JOB, Measure.DURATION_MS, JOB_ATTRIBUTES),
    Instrument("buildkite.jobs.wait_time", "ms", "How long jobs waited for an agent.", SpanKind.JOB, Measure.WAIT_MS, (ORGANIZATION, QUEUE)),
)
# fmt: on

# Of which columns a series is made.
DIMENSIONS = tuple(dict.fromkeys(name for one in INSTRUMENTS for name in one.attributes))
