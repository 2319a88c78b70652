"""A span, its kind and its status: what a payload becomes before it is a row.

A `Trace` is one build. Its spans refer to the records that they were made of; which value
of a record stands in which column is said once, in `fields.py`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from bk_pipeline.spans.records import Build, Job


class SpanKind(StrEnum):
    """The kind names the row: it is the span's name, as Buildkite's own service has it."""

    BUILD = "buildkite.build"
    STAGE = "buildkite.build.stage"
    GROUP = "buildkite.step.group"
    STEP = "buildkite.step"
    JOB = "buildkite.job"
    WAIT = "buildkite.job.wait"


class SpanStatus(StrEnum):
    """OpenTelemetry's status codes. ERROR is for hard failures, OK for passed."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


class SpanOptions(msgspec.Struct, frozen=True):
    """Which spans, links and columns are made of a build, and when.

    Attributes:
        links: Put links on spans. Honeycomb bills each as an event.
        waits: Give each job that waited for an agent a `buildkite.job.wait` span as well.
        conventions: Fill the `cicd.*` and `vcs.*` columns.
        settled_after_s: Make spans of a build only once it has been finished, and not blocked,
            for so many seconds. None: as soon as it has finished.
    """

    links: bool = True
    waits: bool = False
    conventions: bool = True
    settled_after_s: int | None = None


class Link(msgspec.Struct, frozen=True, gc=False):
    """A span of another trace (or an earlier attempt of the same job) that this one is due to."""

    trace_id: str
    span_id: str


class Stage(msgspec.Struct, eq=False, gc=False):
    """One period in which the build ran, between pauses. Numbered from 1.

    `state` is the build's as the stage ended; `blocked_state` the same if it ended at a
    block step. Times in nanoseconds.
    """

    number: int
    start_ns: int
    end_ns: int
    state: str | None = None
    blocked_state: str | None = None


class Group(msgspec.Struct, eq=False, frozen=True, gc=False):
    """A group step. The REST API names its key and nothing else of it."""

    key: str


class Step(msgspec.Struct, eq=False, gc=False):
    """One step of the pipeline in one stage: all its attempts, parallel and matrix jobs.

    `identity` is what makes it the same step in every build payload: its id, else its key,
    else its first attempt's id. A group step is one too.
    """

    identity: str
    type: str
    key: str | None
    group: Group | None
    id: str | None = None
    label: str | None = None
    command: str | None = None
    matrix: bool | None = None


class Span(msgspec.Struct, eq=False, gc=False):
    """One span. Ids are lower-case hex; times are nanoseconds since 1970; end >= start.

    `stage`, `step` and `job` are None on the kinds above them in the tree; `state` and
    `blocked_state` are the build's, on the root and the stages. `adjusted` says
    that the payload's times were missing or impossible and were clamped.
    """

    kind: SpanKind
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    status: SpanStatus
    error_type: str | None = None
    stage: Stage | None = None
    group: Group | None = None
    step: Step | None = None
    job: Job | None = None
    state: str | None = None
    blocked_state: str | None = None
    started: bool = True
    wait_ms: int | None = None
    links: tuple[Link, ...] = ()
    adjusted: bool = False


class Trace(msgspec.Struct, eq=False, gc=False):
    """One build and its spans, the root first, then in order of start.

    `queue_ms` is the time from the root's start to the first job's start, None if no job
    started; `run_ms` is the length of the stages together.
    """

    trace_id: str
    build: Build
    spans: list[Span]
    queue_ms: int | None
    run_ms: int
