"""Checks of Buildkite: token, organization, rate limits, and the estimated cost of a backfill.

The estimate takes a few requests. Buildkite returns the number of pages of a listing, unless it is
very long. In that case, the density of builds is sampled at a few points in time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from statistics import mean
from typing import NamedTuple

from bk_pipeline.buildkite.answers import CREATE_TOKEN
from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.details import ARTIFACTS_SCOPE, LOGS_SCOPE, TESTS_SCOPE
from bk_pipeline.buildkite.listing import PipelineFilter
from bk_pipeline.buildkite.records import AccessToken, BuildRecord
from bk_pipeline.clock import Clock
from bk_pipeline.deliver.sampling import Sampling, rate_of
from bk_pipeline.doctor.findings import CheckResult, Installation, ok, warning
from bk_pipeline.errors import AccessDenied, NotFound, RecordError, StorageError
from bk_pipeline.pipeline.organization import ATTRIBUTES, ask_again
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import table_of
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.text import counted
from bk_pipeline.window import Window, day_window

PER_PAGE = 100
# The number of builds with jobs that are read to estimate the spans per build.
SAMPLED = 30
# The number of samples, and their distance or a divisor of it: they cover all hours of a day
# and a weekend.
PROBES = 8
PROBE_STEP = timedelta(hours=21)
DAY = timedelta(days=1)
MIN_COVERED = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate of the cost of a backfill.

    Attributes:
        builds: Builds that the filters select; 0 if they select none of those `seen`.
        seen: Builds that were listed.
        exact: Whether the builds were counted rather than estimated.
        spans: Their spans.
        sent: Those of the builds that the sampling rules keep.
        events: The same, with their links.
        requests: Requests to Buildkite.
        minutes: The duration.
    """

    builds: int
    seen: int
    exact: bool
    spans: int
    sent: int
    events: int
    requests: int
    minutes: float


@dataclass(frozen=True, slots=True)
class _Listing:
    """Estimates for one listing: builds, the fraction that the filters select, averages per build."""

    builds: float
    seen: int
    exact: bool
    selected: float
    spans_each: float
    sent_each: float
    events_each: float
    seconds_each: float


def cost_of(
    client: BuildkiteClient,
    window: Window,
    *,
    clock: Clock,
    requests_per_minute: int | None,
    sampling: Sampling | None = None,
) -> Cost:
    """Estimate the cost of reading `window` day by day and delivering it.

    Two requests for each pipeline that is chosen by name, or for the organization; eight
    more where the listing is too long to be counted.

    Args:
        client: The client of the Buildkite API.
        window: The time range, up to now.
        clock: Measures the duration of responses.
        requests_per_minute: The requests that the rate limits allow; None: no limit is known.
        sampling: The rules that decide which builds are sent; None sends all.

    Raises:
        PipelineError: From the client.
    """
    found = [
        _estimate_listing(client, pipeline, window, clock, sampling)
        for pipeline in client.pipelines.names or (None,)
    ]
    days = -(-(window.end - window.start) // DAY)
    # A day's last page is half full, and an empty day costs a request.
    requests = sum(one.builds / PER_PAGE + days / 2 for one in found)
    requests = max(requests, len(found) * days)
    reading_s = sum(one.builds * one.seconds_each for one in found)
    allowed_s = requests / requests_per_minute * 60 if requests_per_minute else 0.0
    return Cost(
        builds=sum(round(one.builds * one.selected) or one.selected > 0 for one in found),
        seen=sum(one.seen for one in found),
        exact=all(one.exact and one.selected in {0.0, 1.0} for one in found),
        spans=round(sum(one.builds * one.selected * one.spans_each for one in found)),
        sent=round(sum(one.builds * one.selected * one.sent_each for one in found)),
        events=round(sum(one.builds * one.selected * one.events_each for one in found)),
        requests=round(requests),
        minutes=max(reading_s, allowed_s) / 60,
    )


def _estimate_listing(
    client: BuildkiteClient,
    pipeline: str | None,
    window: Window,
    clock: Clock,
    sampling: Sampling | None,
) -> _Listing:
    page = client.sample(window, pipeline=pipeline)
    if page.pages == 1:
        builds = float(len(page.builds))
    elif page.pages is not None:
        builds = (page.pages - 0.5) * page.size
    else:
        days = (window.end - window.start) / DAY
        # The samples may all be empty, but the builds already listed exist.
        builds = max(_builds_per_day(client, pipeline, window) * days, float(len(page.builds)))
    began = clock.monotonic()
    whole = client.sample(window, pipeline=pipeline, count=SAMPLED, jobs=True).builds
    seconds = clock.monotonic() - began
    choice = PipelineFilter() if pipeline else client.pipelines
    listed = [*page.builds, *whole]
    selected = [one for one in listed if one.pipeline in choice]
    sizes = [size for one in whole if one.pipeline in choice and (size := _size(one, sampling))]
    return _Listing(
        builds=builds,
        seen=len(listed),
        exact=page.pages == 1,
        selected=len(selected) / len(listed) if listed else 0.0,
        spans_each=mean([one.spans for one in sizes] or [0]),
        sent_each=mean([one.spans / one.rate for one in sizes] or [0]),
        events_each=mean([one.events / one.rate for one in sizes] or [0]),
        seconds_each=seconds / max(len(whole), 1),
    )


class _Size(NamedTuple):
    """A build's number of spans, of spans and links, and the rate at which such builds are kept."""

    spans: int
    events: int
    rate: int


def _size(build: BuildRecord, sampling: Sampling | None) -> _Size | None:
    """Return the size of a build; None if it has no trace."""
    try:
        trace = spans_for_build(decode_build(build.payload))
    except RecordError:
        return None
    if trace is None:
        return None
    rate = 1
    if sampling is not None:
        thresholds = sampling.thresholds([table_of([trace])])
        rate = rate_of(next(iter(thresholds.values()), 0))
    spans = len(trace.spans)
    return _Size(spans, spans + sum(len(span.links) for span in trace.spans), rate)


def _builds_per_day(client: BuildkiteClient, pipeline: str | None, window: Window) -> float:
    """Estimate the builds per day of a listing that is too long to count."""
    step = max((window.end - window.start) / PROBES // PROBE_STEP * PROBE_STEP, PROBE_STEP)
    densities = []
    for n in range(PROBES):
        moment = window.end - n * step
        page = client.sample(Window(moment - DAY, moment), pipeline=pipeline)
        covered = DAY
        if page.pages != 1 and page.builds:
            covered = moment - from_ns(min(one.created_ns for one in page.builds))
        densities.append(len(page.builds) * (DAY / max(covered, MIN_COVERED)))
    return mean(densities)


NEEDED_SCOPE = "read_builds"
EXPIRES_SOON = timedelta(days=14)
# Less than this share left, and others use the organization's quota as well.
LOW_REMAINING = 0.5


def token(it: Installation) -> CheckResult:
    """Check that the token is valid and has the required scope."""
    found = it.access_token
    if NEEDED_SCOPE not in found.scopes:
        has = ", ".join(sorted(found.scopes)) or "none"
        raise AccessDenied(
            f"The token in BUILDKITE_API_TOKEN lacks the scope {NEEDED_SCOPE}; it has: {has}. "
            f"Edit it, or create another, under {CREATE_TOKEN}."
        )
    whose = f'"{found.description}"' if found.description else "a token"
    whose += f" of {found.user.name}" if found.user and found.user.name else ""
    return _with_expiry(found, f"{whose}; {_scopes(found.scopes)}", it)


def _scopes(scopes: list[str]) -> str:
    writing = sorted(one for one in scopes if not one.startswith("read_"))
    if writing:
        return f"it may also {', '.join(writing)}, where {NEEDED_SCOPE} alone would do."
    more = len(scopes) - 1
    return f"it has the scope {NEEDED_SCOPE}" + (f" and {more} more." if more else ".")


def _with_expiry(found: AccessToken, message: str, it: Installation) -> CheckResult:
    if found.expires_at is None:
        return ok(message)
    day = f"{found.expires_at:%Y-%m-%d}"
    if found.expires_at - it.clock.now() < EXPIRES_SOON:
        return warning(f"{message} It expires on {day}: create the next one under {CREATE_TOKEN}.")
    return ok(f"{message} It expires on {day}.")


def organization(it: Installation) -> CheckResult:
    """Check that the token can list the organization's builds."""
    slug = it.buildkite.organization
    if not it.buildkite.organization_visible():
        raise NotFound(
            f"Buildkite has no organization {slug}, or the token has no access to it (404). "
            "BUILDKITE_ORGANIZATION_SLUG is its name in URLs: acme in https://buildkite.com/acme. "
            f"The organizations that a token may see are chosen under {CREATE_TOKEN}."
        )
    return ok(f"{slug}; its builds can be listed.")


def names(it: Installation) -> CheckResult:
    """Report which optional scopes would bring which attributes. Never fails.

    If the token has been given a scope since a run was refused for want of it, the refusal is
    forgotten, and the next run asks again.
    """
    granted = [scope for scope in ATTRIBUTES if scope in it.access_token.scopes]
    attributes = {scope: " and ".join(names) for scope, names in ATTRIBUTES.items()}
    messages = [
        f"with the scope {scope}, which the token lacks, spans would have {attributes[scope]}"
        for scope in ATTRIBUTES
        if scope not in granted
    ]
    if messages:
        messages[-1] += f". Optional; scopes are edited under {CREATE_TOKEN}"
    if granted:
        have = ", ".join(attributes[scope] for scope in granted)
        messages.insert(0, f"spans have {have}")
    with suppress(StorageError):  # reported by the check of the storage
        again = ask_again(it.app.raw().organizations, it.buildkite.organization, granted)
        if again:
            messages.append(f"the last request with {' and '.join(again)} did not succeed: ")
            messages[-1] += "the next run asks again"
    return ok("; ".join(messages) + ".")


# What the scopes for the inside of jobs bring, and for which sources of a policy they are needed.
INSIDE_JOBS = {
    LOGS_SCOPE: ("spans of the sections of logs, and why jobs failed", ("log",)),
    ARTIFACTS_SCOPE: ("spans of tests and of profiles", ("tests", "profiles")),
    TESTS_SCOPE: ("spans of Test Engine's tests", ("test_engine",)),
}


def inside_jobs(it: Installation) -> CheckResult:
    """Report which optional scopes are for logs and artifacts; a warning if the policy needs one.

    Raises:
        ConfigError: The policy is malformed.
    """
    policy = it.app.job_details()
    granted = it.access_token.scopes
    if policy is None:
        brought = "; ".join(
            f"with the scope {scope}, which the token {'has' if scope in granted else 'lacks'}, "
            f"{attributes}"
            for scope, (attributes, _) in INSIDE_JOBS.items()
        )
        return ok(f"nothing is read. BK_PIPELINE_JOB_DETAILS would add, {brought}. Optional.")
    sources = {source for rule in policy.rule for source in rule.sources}
    needed = [scope for scope, (_, of) in INSIDE_JOBS.items() if sources.intersection(of)]
    lacking = [scope for scope in needed if scope not in granted]
    if lacking:
        without = " and ".join(INSIDE_JOBS[scope][0] for scope in lacking)
        return warning(
            f"the token lacks {' and '.join(lacking)}, which BK_PIPELINE_JOB_DETAILS asks for: "
            f"there will be no {without} until it has that scope. Scopes are edited under "
            f"{CREATE_TOKEN}."
        )
    if not needed:
        return ok("BK_PIPELINE_JOB_DETAILS reads nothing.")
    return ok(f"the token has {' and '.join(needed)}, as BK_PIPELINE_JOB_DETAILS needs.")


def rate_limits(it: Installation) -> CheckResult:
    """Check the remaining rate limits, from the responses so far."""
    statuses = it.quota.statuses(it.clock.monotonic())
    if not statuses:
        return warning("the answers carry no RateLimit headers: is a proxy in between?")
    message = "; ".join(
        f"{one.name}: {one.remaining} of {one.limit} requests left this minute, of which runs may use "
        f"{one.remaining - spared} and leave {spared} to others"
        for one in statuses
        for spared in [min(one.limit - one.usable, one.remaining)]
    )
    if any(one.remaining < one.limit * LOW_REMAINING for one in statuses):
        return warning(f"{message}. Others are using them now: runs wait for their turn.")
    return ok(f"{message}.")


def backfill_cost(it: Installation) -> CheckResult:
    """Estimate the cost of a backfill of the last days."""
    now, zone = it.clock.now(), it.settings.timezone
    first = day_window(it.settings.start_date.isoformat(), zone).start
    start = max(now - timedelta(days=it.days), first)
    days = max((now - start).days, 1)
    if start >= now:
        return warning("BK_PIPELINE_START_DATE is in the future: there is no day to process yet.")
    statuses = it.quota.statuses(it.clock.monotonic())
    per_minute = min((one.usable for one in statuses), default=None)
    found = cost_of(
        it.buildkite,
        Window(start, now),
        clock=it.clock,
        requests_per_minute=per_minute,
        sampling=it.app.sampling(),
    )
    if not found.builds and found.seen:
        return warning(
            f"no builds to take: the {found.seen:,} that were looked at, of the last "
            f"{counted(days, 'day')}, are not among those that BK_PIPELINE_PIPELINES chooses."
        )
    if not found.builds:
        return warning(
            f"no builds in the last {counted(days, 'day')}. If there should be, check {_filters(it)}."
        )
    return ok(_describe_cost(found, days))


def _filters(it: Installation) -> str:
    """Return the settings that may exclude builds, filters first."""
    filters = {
        "BK_PIPELINE_PIPELINES": it.settings.pipelines,
        "BK_PIPELINE_BRANCHES": it.settings.branches,
    }
    named = [f"{name} (set to {','.join(value)})" for name, value in filters.items() if value]
    return " and ".join([*named, "BUILDKITE_ORGANIZATION_SLUG"])


def _describe_cost(found: Cost, days: int) -> str:
    about = "" if found.exact else "about "
    spans = f", about {counted(found.spans, 'span')}" if found.spans else ""
    if found.sent != found.spans:
        spans += f", of which BK_PIPELINE_SAMPLING keeps about {found.sent:,}"
    events = f" ({counted(found.events, 'event')} at Honeycomb)" if found.events else ""
    minutes = f"{found.minutes:,.0f} minutes" if found.minutes >= 2 else "a minute or two"  # noqa: PLR2004  # not worth a name
    return (
        f"the last {counted(days, 'day')}: {about}{counted(found.builds, 'build')}{spans}{events}; "
        f"about {counted(found.requests, 'request')} to Buildkite, {minutes}."
    )
