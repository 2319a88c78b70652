"""Estimate the cost of a backfill in builds, spans, requests, and minutes from a few requests.

Buildkite returns the number of pages of a listing, unless it is very long. In that case, the
density of builds is sampled at a few points in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from statistics import mean

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.listing import PipelineFilter
from bk_pipeline.buildkite.records import BuildRecord
from bk_pipeline.clock import Clock
from bk_pipeline.errors import RecordError
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.window import Window

PER_PAGE = 100
# Builds with their jobs, to see how many spans one makes.
SAMPLED = 30
# Moments to look at, and how far they lie apart, or a multiple of that: all hours of a day,
# and a weekend.
PROBES = 8
PROBE_STEP = timedelta(hours=21)
DAY = timedelta(days=1)
SHORTEST_REACH = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate. `exact`: the builds were counted. `events` is spans and links.

    `seen` are builds that were listed, wanted or not: without any of them wanted, `builds` is 0.
    """

    builds: int
    seen: int
    exact: bool
    spans: int
    events: int
    requests: int
    minutes: float


@dataclass(frozen=True, slots=True)
class _Listing:
    """One listing: all of its builds, how many of them are wanted, what each is made of."""

    builds: float
    seen: int
    exact: bool
    wanted: float
    spans_each: float
    events_each: float
    seconds_each: float


def cost_of(
    client: BuildkiteClient, window: Window, *, clock: Clock, requests_a_minute: int | None
) -> Cost:
    """Estimate the cost of reading `window` day by day and delivering it.

    Two requests for each pipeline that is chosen by name, or for the organization; eight
    more where the listing is too long to be counted.

    Args:
        client: Asks.
        window: Up to now.
        clock: Tells how long an answer takes.
        requests_a_minute: What the quotas allow us; None: no limit is known.

    Raises:
        PipelineError: From the client.
    """
    found = [
        _look(client, pipeline, window, clock) for pipeline in client.pipelines.names or (None,)
    ]
    days = -(-(window.end - window.start) // DAY)
    # A day's last page is half full, and an empty day costs a request.
    requests = sum(one.builds / PER_PAGE + days / 2 for one in found)
    requests = max(requests, len(found) * days)
    reading_s = sum(one.builds * one.seconds_each for one in found)
    allowed_s = requests / requests_a_minute * 60 if requests_a_minute else 0.0
    return Cost(
        builds=sum(round(one.builds * one.wanted) or one.wanted > 0 for one in found),
        seen=sum(one.seen for one in found),
        exact=all(one.exact and one.wanted in {0.0, 1.0} for one in found),
        spans=round(sum(one.builds * one.wanted * one.spans_each for one in found)),
        events=round(sum(one.builds * one.wanted * one.events_each for one in found)),
        requests=round(requests),
        minutes=max(reading_s, allowed_s) / 60,
    )


def _look(client: BuildkiteClient, pipeline: str | None, window: Window, clock: Clock) -> _Listing:
    page = client.sample(window, pipeline=pipeline)
    if page.pages == 1:
        builds = float(len(page.builds))
    elif page.pages is not None:
        builds = (page.pages - 0.5) * page.size
    else:
        days = (window.end - window.start) / DAY
        # Probes may all fall where there is nothing: what is in hand is there nevertheless.
        builds = max(_a_day(client, pipeline, window) * days, float(len(page.builds)))
    began = clock.monotonic()
    whole = client.sample(window, pipeline=pipeline, count=SAMPLED, jobs=True).builds
    seconds = clock.monotonic() - began
    choice = PipelineFilter() if pipeline else client.pipelines
    listed = [*page.builds, *whole]
    wanted = [one for one in listed if one.pipeline in choice]
    sizes = [size for one in whole if one.pipeline in choice and (size := _size(one))]
    return _Listing(
        builds=builds,
        seen=len(listed),
        exact=page.pages == 1,
        wanted=len(wanted) / len(listed) if listed else 0.0,
        spans_each=mean([spans for spans, _ in sizes] or [0]),
        events_each=mean([events for _, events in sizes] or [0]),
        seconds_each=seconds / max(len(whole), 1),
    )


def _size(build: BuildRecord) -> tuple[int, int] | None:
    """Return a build's number of spans, and of spans and links; None if it has no trace."""
    try:
        trace = spans_for_build(decode_build(build.payload))
    except RecordError:
        return None
    if trace is None:
        return None
    return len(trace.spans), len(trace.spans) + sum(len(span.links) for span in trace.spans)


def _a_day(client: BuildkiteClient, pipeline: str | None, window: Window) -> float:
    """Estimate the builds per day of a listing that is too long to count."""
    step = max((window.end - window.start) / PROBES // PROBE_STEP * PROBE_STEP, PROBE_STEP)
    densities = []
    for n in range(PROBES):
        moment = window.end - n * step
        page = client.sample(Window(moment - DAY, moment), pipeline=pipeline)
        reach = DAY
        if page.pages != 1 and page.builds:
            reach = moment - from_ns(min(one.created_ns for one in page.builds))
        densities.append(len(page.builds) * (DAY / max(reach, SHORTEST_REACH)))
    return mean(densities)
