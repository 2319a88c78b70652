"""Checks of Buildkite: token, organization, rate limits, and the cost of a backfill."""

from __future__ import annotations

from datetime import timedelta

from bk_pipeline.buildkite.answers import CREATE_TOKEN
from bk_pipeline.buildkite.records import AccessToken
from bk_pipeline.doctor.cost import Cost, cost_of
from bk_pipeline.doctor.findings import CheckResult, Installation, ok, warning
from bk_pipeline.errors import AccessDenied, NotFound
from bk_pipeline.text import counted
from bk_pipeline.window import Window, day_window

NEEDED_SCOPE = "read_builds"
EXPIRES_SOON = timedelta(days=14)
# Less than this share left, and others use the organization's quota as well.
SCARCE = 0.5


def token(it: Installation) -> CheckResult:
    """Check that the token is valid and has the required scope."""
    found = it.buildkite.access_token()
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
    if any(one.remaining < one.limit * SCARCE for one in statuses):
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
    a_minute = min((one.usable for one in statuses), default=None)
    found = cost_of(it.buildkite, Window(start, now), clock=it.clock, requests_a_minute=a_minute)
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
    events = f" ({counted(found.events, 'event')} at Honeycomb)" if found.events else ""
    minutes = f"{found.minutes:,.0f} minutes" if found.minutes >= 2 else "a minute or two"  # noqa: PLR2004  # not worth a name
    return (
        f"the last {counted(days, 'day')}: {about}{counted(found.builds, 'build')}{spans}{events}; "
        f"about {counted(found.requests, 'request')} to Buildkite, {minutes}."
    )
