"""The span model: spans, traces, and the stages, steps and groups that spans refer to.

A `Trace` is one build. Its spans refer to the records of the payload they were built from;
`fields.py` declares which value of a record goes to which column of the span table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from bk_pipeline.spans.records import Build, Job

if TYPE_CHECKING:
    from bk_pipeline.spans.costs import Prices
    from bk_pipeline.spans.organizations import Origin


class SpanKind(StrEnum):
    """The kind of a span. It is also its name, as in Buildkite's OpenTelemetry service.

    Those from `SECTION` on are inside jobs; the modules of `sources/` make them.
    """

    BUILD = "buildkite.build"
    STAGE = "buildkite.build.stage"
    GROUP = "buildkite.step.group"
    STEP = "buildkite.step"
    JOB = "buildkite.job"
    WAIT = "buildkite.job.wait"
    SECTION = "buildkite.job.section"
    COMMAND = "buildkite.job.section.command"
    SUITE = "test.suite"
    CASE = "test.case"
    THREAD = "profile.thread"
    EVENT = "profile.event"


class SpanStatus(StrEnum):
    """OpenTelemetry's status codes: ERROR for hard failures, OK for passed, else UNSET."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


class SpanOptions(msgspec.Struct, frozen=True):
    """Which spans, links and columns are created for a build, and when.

    Attributes:
        links: Add links to spans. Honeycomb bills each link as an event.
        waits: Add a `buildkite.job.wait` span for each job that waited for an agent.
        conventions: Fill the `cicd.*` and `vcs.*` columns.
        critical_path: Find the critical path and fill its columns.
        prices: Fill the columns of costs with these prices; None leaves them null.
        settled_after_s: Create spans only after the build has been finished, and not blocked,
            for this many seconds. None: as soon as it has finished.
    """

    links: bool = True
    waits: bool = False
    conventions: bool = True
    critical_path: bool = True
    prices: Prices | None = None
    settled_after_s: int | None = None


class Link(msgspec.Struct, frozen=True, gc=False):
    """A span that caused this one: of another trace, or an earlier attempt of the same job."""

    trace_id: str
    span_id: str


class PathShare(msgspec.Struct, gc=False):
    """The share that a span has of the critical path (see `critical_path.py`).

    Attributes:
        slack_ms: How much later it could have ended without the build ending later; None if it
            was never active.
        critical: Whether it is on the path.
        ms: Its exclusive share of the build's length, in milliseconds; 0 off the path.
        wait_ms: The part of `ms` in which the job waited for an agent.
    """

    slack_ms: int | None
    critical: bool = False
    ms: int = 0
    wait_ms: int = 0


class BuildPath(msgspec.Struct, frozen=True, gc=False):
    """The length of a build's critical path; the three parts add up to that of the build.

    `run_ms`: a job on the path ran; `blocked_ms`: the build waited for a person; `wait_ms`: all
    other time, mostly waiting for agents.
    """

    run_ms: int
    wait_ms: int
    blocked_ms: int


class Stage(msgspec.Struct, eq=False, gc=False):
    """One period in which the build was active, between pauses. Numbered from 1.

    `state` is the state of the build when the stage ended; `blocked_state` is the same if the
    stage ended at a block step, else None. Times are in nanoseconds. `path` is set if the critical
    path is turned on.
    """

    number: int
    start_ns: int
    end_ns: int
    state: str | None = None
    blocked_state: str | None = None
    path: PathShare | None = None


class Group(msgspec.Struct, eq=False, frozen=True, gc=False):
    """A group step. The REST API has only its key."""

    key: str


class Step(msgspec.Struct, eq=False, gc=False):
    """One step of the pipeline in one stage, with all its attempts, parallel and matrix jobs.

    `identity` identifies the step in every payload of the build: its id, else its key, else
    the job id of its first attempt. A group step is a step too.
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

    `stage`, `group`, `step` and `job` are None on the kinds above them in the tree; `state`
    and `blocked_state` are those of the build, on the root and on stages only. `adjusted`
    means that the payload's times were missing or impossible and were clamped. `path` is None on
    the root, or if the critical path is turned off.
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
    path: PathShare | None = None


class Trace(msgspec.Struct, eq=False, gc=False):
    """One build and its spans: the root first, the others in order of start.

    `queue_ms` is the time from the start of the root to the first job's start, None if no job
    started; `run_ms` is the total length of the stages. `path` is None if the critical path is
    turned off. `origin` has the names that the payload lacks, if they are known.
    """

    trace_id: str
    build: Build
    spans: list[Span]
    queue_ms: int | None
    run_ms: int
    path: BuildPath | None = None
    origin: Origin | None = None
