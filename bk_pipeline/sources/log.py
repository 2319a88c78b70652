"""The log of a job as spans: a section for each header, and on request its commands.

`read_log` takes the raw log as a stream, which `log_scan.py` scans.

Times come from, in this order: the agent's markers in the text, the API's `header_times`, the time
stamps of `timestamp-lines`. What has none of them is placed by its offset in the log and marked as
guessed. A section lasts until the next one begins, the last one until the job ends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import msgspec

from bk_pipeline.sources.failure import Failure
from bk_pipeline.sources.headers import Phase
from bk_pipeline.sources.log_scan import Command, Scan, Section, blocks
from bk_pipeline.sources.model import DetailSpan, JobTimes
from bk_pipeline.sources.terminal import safe
from bk_pipeline.sources.times import Point, resolve
from bk_pipeline.spans.model import SpanKind, SpanStatus

NAME_LIMIT, COMMAND_LIMIT = 200, 1_000

INDEX = "buildkite.job.section.index"
NAME = "buildkite.job.section.name"
PHASE = "buildkite.job.section.phase"
BYTES = "buildkite.job.section.bytes"
LINES = "buildkite.job.section.lines"
COMMAND = "buildkite.job.section.command"
KIND = "bk_pipeline.failure.kind"
MESSAGE = "bk_pipeline.failure.message"
SIGNATURE = "bk_pipeline.failure.signature"


class Log(msgspec.Struct):
    """What a log contains.

    Attributes:
        spans: Sections, each followed by its commands.
        failure: Why the job failed; None if it did not, or if the log does not tell.
        bytes: Size of the log.
        lines: Number of lines of the log.
        sections: Number of sections of the log.
        omitted_sections: Those of them that have no span, because there are too many.
        omitted_commands: Commands that have no span, because there are too many.

    A section that is left out is between others: it has no span, and those around it keep their
    times.
    """

    spans: list[DetailSpan]
    failure: Failure | None
    bytes: int
    lines: int
    sections: int = 0
    omitted_sections: int = 0
    omitted_commands: int = 0


def read_log(
    chunks: Iterable[bytes],
    job: JobTimes,
    *,
    header_times: Sequence[int] | Callable[[], Sequence[int]] = (),
    commands: bool = False,
    text: bool = True,
    exit_status: int | None = None,
    signal_reason: str | None = None,
    state: str | None = None,
) -> Log:
    """Return the sections of a log, and the failure of its job.

    Args:
        chunks: The raw log, cut anywhere.
        job: The job that the times lie within.
        header_times: Times of headers in nanoseconds, as the API has them beside a log, or a
            function that requests them. It is called only if the log has headers without times.
            There need not be as many times as headers.
        commands: Whether to add a span for each command that the agent or a shell (`set -x`)
            printed before running it.
        text: Whether anything of the log's text may be in the result: names, commands, messages
            and signatures.
        exit_status: The job's. If neither this nor `signal_reason` is known, a job counts as failed
            if its agent printed an error.
        signal_reason: Why the agent or Buildkite ended the job.
        state: The job's, which alone tells a time limit (`timed_out`) from a cancellation.
    """
    scan = Scan(commands=commands)
    for block in blocks(chunks):
        scan.read(block)
    scan.finish()
    sections = scan.sections(header_times)
    spans, indices = _spans(scan, sections, job, text=text)
    failure = scan.failure(exit_status, signal_reason, state)
    if failure and not text:
        failure = failure.without_text()
    failed = _failed_section(sections, failure.offset) if failure else None
    if failure and failed is not None:
        _add_failure(spans[indices[failed]], failure)
    return Log(
        spans=spans,
        failure=failure,
        bytes=scan.bytes,
        lines=scan.lines,
        sections=scan.count,
        omitted_sections=scan.count - len(sections),
        omitted_commands=scan.omitted_commands,
    )


def _spans(
    scan: Scan, sections: list[Section], job: JobTimes, *, text: bool
) -> tuple[list[DetailSpan], list[int]]:
    """Return the spans of sections, each followed by its commands, and the indices of sections."""
    kept = {one.index for one in sections}
    commands: dict[int, list[Command]] = {index: [] for index in kept}
    for command in scan.commands:
        if command.section in kept:
            commands[command.section].append(command)
    starts = {one.index: Point(one.offset, one.time_ns, one.guessed) for one in sections}
    inner = {
        one.offset: Point(one.offset, one.time_ns) for one in scan.commands if one.section in kept
    }
    ends = {
        one.index: Point(one.offset + one.bytes, one.next_ns)
        for one in sections
        if one.index + 1 not in kept and one.index + 1 < scan.count
    }
    points = sorted((*starts.values(), *inner.values(), *ends.values()), key=lambda one: one.offset)
    resolve(points, job, scan.bytes)
    job_end = Point(scan.bytes, job.end_ns)
    spans: list[DetailSpan] = []
    indices = []
    for one in sections:
        end = ends.get(one.index) or starts.get(one.index + 1, job_end)
        indices.append(len(spans))
        spans.append(_section_span(one, starts[one.index], end, text=text))
        inside = commands[one.index]
        for number, command in enumerate(inside):
            following = inner[inside[number + 1].offset] if number + 1 < len(inside) else end
            spans.append(
                DetailSpan(
                    kind=SpanKind.COMMAND,
                    identity=(str(one.index), str(number)),
                    parent=indices[-1],
                    **_interval(inner[command.offset], following),
                    attributes={COMMAND: safe(command.text, COMMAND_LIMIT)} if text else {},
                )
            )
    return spans, indices


def _section_span(section: Section, start: Point, end: Point, *, text: bool) -> DetailSpan:
    attributes: dict[str, str | int | float | bool] = {
        INDEX: section.index,
        PHASE: str(section.phase),
        BYTES: section.bytes,
        LINES: section.lines,
    }
    name = safe(section.name, NAME_LIMIT) if text and section.name else ""
    if name:
        attributes[NAME] = name
    return DetailSpan(
        kind=SpanKind.SECTION,
        identity=(str(section.index),),
        parent=None,
        **_interval(start, end),
        attributes=attributes,
    )


def _interval(start: Point, end: Point) -> dict[str, Any]:
    """Return the fields of a span that begins and ends at resolved points."""
    start_ns, end_ns = cast("int", start.time_ns), cast("int", end.time_ns)
    guessed = start.guessed or end.guessed
    return {"start_ns": start_ns, "end_ns": end_ns, "guessed": guessed}


def _add_failure(span: DetailSpan, failure: Failure) -> None:
    """Put a failure on the span of the section in which the job failed."""
    span.status, span.error_type = SpanStatus.ERROR, "failed"
    span.attributes[KIND] = str(failure.kind)
    if failure.message:
        span.attributes[MESSAGE] = failure.message
    if failure.signature:
        span.attributes[SIGNATURE] = failure.signature


def _failed_section(sections: list[Section], offset: int | None) -> int | None:
    """Return which of `sections` an offset of the log is in.

    Without an offset it is the last section of the command, if possible one that was opened
    (`^^^ +++`), as the agent does with what failed.
    """
    if offset is not None:
        at = bisect_right([one.offset for one in sections], offset) - 1
        inside = at >= 0 and offset < sections[at].offset + sections[at].bytes
        return at if inside else None
    commands = [at for at, one in enumerate(sections) if one.phase is Phase.COMMAND]
    opened = [at for at in commands if sections[at].expanded]
    return next(iter([*opened[-1:], *commands[-1:], *range(len(sections))[-1:]]), None)
