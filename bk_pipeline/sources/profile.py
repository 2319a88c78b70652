"""Reads profiles in Chrome's trace event format: threads, and the longest of their events.

Bazel, Buck2, turborepo, tsc, clang, ninja's and Chrome's tools and others write it. What becomes
spans are complete events (`X`), and pairs of a begin and an end (`B`, `E`). The times of a file
(microseconds, whatever `displayTimeUnit` says) begin anywhere. In this order it is tried whether the
profile fits into the job, if its times are

1. Unix time,
2. counted from a time that the file names exactly (clang's `beginningOfTime`, Bazel's
   `otherData.profile_start_ts`), or to the second (Bazel's `otherData.date`).

If it does not, it is laid at the start of the job, and its times are marked as guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from bk_pipeline.sources.model import DetailSpan, JobTimes
from bk_pipeline.sources.profile_events import (
    MOST_US,
    Event,
    EventPolicy,
    LongestEvents,
    Profile,
    Thread,
    chosen,
    microseconds,
    nanoseconds,
    nested,
    without,
)
from bk_pipeline.sources.results import TOLERANCE_NS
from bk_pipeline.sources.streams import Unreadable, blocks
from bk_pipeline.sources.texts import clean_name, masked_texts, without_texts
from bk_pipeline.sources.timestamps import parse_timestamp
from bk_pipeline.sources.trace_events import TraceFile
from bk_pipeline.spans.model import SpanKind

__all__ = ["EventPolicy", "Profile", "read_profile"]

LIMIT_BYTES = 8 << 30


def read_profile(
    chunks: Iterable[bytes],
    job: JobTimes,
    *,
    path: str,
    events: EventPolicy,
    artifact_id: str | None = None,
    text: bool = True,
) -> Profile:
    """Read a file of trace events, or one that gzip has packed.

    A file that cannot be read to its end gives the spans of what comes before, and `problem`. Memory
    does not grow with the file.

    Args:
        chunks: The file's content, split anywhere.
        job: The job that the file is an artifact of.
        path: The artifact's path.
        events: Which events become spans.
        artifact_id: The artifact's id, by which spans are identified. A job may upload two files of
            the same path, so leave it out only if there is none.
        text: Whether names and categories may leave the file.
    """
    reader = LongestEvents(events)
    file = TraceFile(blocks(chunks, limit_bytes=LIMIT_BYTES))
    problem = None
    try:
        for batch in file.batches():
            reader.add(batch)
    except Unreadable as error:
        problem = str(error)
    profile = reader.profile
    profile.problem = problem
    profile.unreadable += reader.open_events
    kept = chosen(nested(reader.candidates), events, profile)
    kept, guessed = _placed(kept, job, _origins(file.header), profile)
    profile.spans = list(_spans(kept, reader, path, artifact_id or path, guessed=guessed))
    if text:
        _mask(profile.spans)
    else:
        without_texts(profile.spans)
    return profile


class _OtherData(msgspec.Struct):
    date: str | None = None
    profile_start_ts: float | str | None = None


def _origins(header: dict[str, bytes]) -> Iterator[tuple[int, bool]]:
    """Yield what may be added to times to make them Unix time, and whether that is a guess."""
    yield 0, False
    try:
        began_us = msgspec.json.decode(header.get("beginningOfTime", b"0"), type=float)
        yield nanoseconds(min(began_us, MOST_US)), False
    except (msgspec.DecodeError, ValueError):
        pass
    try:
        other = msgspec.json.decode(header.get("otherData", b"{}"), type=_OtherData)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return
    began_ms = microseconds(other.profile_start_ts)
    if began_ms is not None:
        yield nanoseconds(began_ms * 1_000), False
    date = parse_timestamp(other.date)
    if date is not None:
        yield date.at_ns, True


def _placed(
    events: list[Event], job: JobTimes, origins: Iterable[tuple[int, bool]], profile: Profile
) -> tuple[list[Event], bool]:
    """Move the events into the job; return those that are in it, and whether times are guessed."""
    if not events:
        return [], False
    first_ns = min(event.start_ns for event in events)
    last_ns = max(event.end_ns for event in events)
    shift_ns, guessed = job.start_ns - first_ns, True
    for origin_ns, vague in origins:
        early_ns = job.start_ns - (first_ns + origin_ns)
        late_ns = last_ns + origin_ns - job.end_ns
        if last_ns - first_ns > job.end_ns - job.start_ns:
            continue
        if early_ns <= TOLERANCE_NS and late_ns <= TOLERANCE_NS:
            moved_ns = max(early_ns, 0) - max(late_ns, 0)
            shift_ns, guessed = origin_ns + moved_ns, vague or moved_ns != 0
            break
    inside = set()
    for index, event in enumerate(events):
        event.start_ns += shift_ns
        event.length_ns = min(event.end_ns, job.end_ns) - event.start_ns
        if event.start_ns < job.end_ns or event.start_ns == event.end_ns == job.end_ns:
            inside.add(index)
    profile.outside += len(events) - len(inside)
    return without(events, inside), guessed


def _spans(
    events: list[Event], reader: LongestEvents, path: str, source: str, *, guessed: bool
) -> Iterator[DetailSpan]:
    """Yield a span for each thread, followed by those of its events."""
    places: dict[int, int] = {}
    number, thread_at = 0, -1
    thread: Thread | None = None
    ends = _times(events)
    for index, event in enumerate(events):
        if event.thread != thread:
            thread, thread_at = event.thread, number
            number += 1
            start_ns, end_ns = ends[thread]
            yield DetailSpan(
                SpanKind.THREAD,
                (source, *thread),
                None,
                start_ns,
                end_ns,
                guessed=guessed,
                attributes=_thread_attributes(thread, reader, path),
            )
        places[index] = number
        number += 1
        yield DetailSpan(
            SpanKind.EVENT,
            (source, str(-event.minus_index)),
            thread_at if event.parent is None else places[event.parent],
            event.start_ns,
            event.end_ns,
            guessed=guessed,
            attributes=_event_attributes(event),
        )


def _times(events: Iterable[Event]) -> dict[Thread, tuple[int, int]]:
    found: dict[Thread, tuple[int, int]] = {}
    for event in events:
        start_ns, end_ns = found.get(event.thread, (event.start_ns, event.end_ns))
        found[event.thread] = min(start_ns, event.start_ns), max(end_ns, event.end_ns)
    return found


def _thread_attributes(
    thread: Thread, reader: LongestEvents, path: str
) -> dict[str, str | int | float | bool]:
    process, number = thread
    attributes: dict[str, str | int | float | bool] = {"bk_pipeline.artifact.path": path}
    name = reader.threads.get(thread) or reader.processes.get(process)
    if not name and not _is_number(number):
        name = clean_name(number)
    if name:
        attributes["thread.name"] = name
    if _is_number(number):
        attributes["thread.id"] = int(number)
    if _is_number(process):
        attributes["process.pid"] = int(process)
    return attributes


def _event_attributes(event: Event) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {"bk_pipeline.profile.depth": event.depth}
    if event.name:
        attributes["bk_pipeline.profile.name"] = event.name
    if event.category:
        attributes["bk_pipeline.profile.category"] = event.category
    return attributes


_NAMES = ("thread.name", "bk_pipeline.profile.name", "bk_pipeline.profile.category")


def _mask(spans: list[DetailSpan]) -> None:
    masks = masked_texts(
        str(span.attributes[name]) for span in spans for name in _NAMES if name in span.attributes
    )
    for span in spans if masks else ():
        for name in _NAMES:
            value = str(span.attributes.get(name, ""))
            if value in masks:
                span.attributes[name] = masks[value]


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit() and len(text) < 18  # noqa: PLR2004
