"""Many payloads at once: what `tree.py` does of one, with all of their times read together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter

import msgspec

from bk_pipeline.errors import RecordError
from bk_pipeline.spans.model import SpanOptions, Trace
from bk_pipeline.spans.records import Build, decode_build
from bk_pipeline.spans.timing import Times
from bk_pipeline.spans.tree import DEFAULTS, spans_for_build

# The times that a build's root needs, and those that nearly every job has; others are parsed
# when they come up.
BUILD_TIMES = attrgetter("created_at", "finished_at")
JOB_TIMES = attrgetter("created_at", "runnable_at", "started_at", "finished_at")


def traces_of(
    payloads: Iterable[bytes | msgspec.Raw], *, options: SpanOptions = DEFAULTS
) -> Iterator[Trace | RecordError | None]:
    """What each payload becomes, in order: its trace, None if the build has not finished, or
    the error that says why it cannot be made into spans.
    """
    builds = [decode_or_error(payload) for payload in payloads]
    times = times_of([build for build in builds if isinstance(build, Build)])
    for build in builds:
        if isinstance(build, RecordError):
            yield build
            continue
        try:
            yield spans_for_build(build, times=times, options=options)
        except RecordError as exc:
            yield exc


def times_of(builds: Sequence[Build]) -> Times:
    """The times of `builds` and of all their jobs."""
    jobs = chain.from_iterable(build.jobs or () for build in builds)
    texts = chain(map(BUILD_TIMES, builds), map(JOB_TIMES, jobs))
    times = Times()
    times.read(list(chain.from_iterable(texts)))
    return times


def decode_or_error(payload: bytes | msgspec.Raw) -> Build | RecordError:
    """The build in `payload`, or the error that says why it cannot be read."""
    try:
        return decode_build(payload)
    except RecordError as exc:
        return exc
