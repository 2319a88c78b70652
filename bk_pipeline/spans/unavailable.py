"""The attributes of Buildkite's OpenTelemetry notification service that we cannot fill.

Declared, so that the documentation can say so: what the service sends and no answer of the
REST API's builds endpoints holds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unavailable:
    """One attribute of the service's, the spans it stands on there, and why not on ours."""

    name: str
    on: str
    reason: str


_U = Unavailable

# fmt: off
UNAVAILABLE = (
    _U("buildkite.organization.name", "resource", "A build names its organization by slug alone, in its URLs."),
    _U("buildkite.organization.id", "resource", "A build names its organization by slug alone, in its URLs."),
    _U("buildkite.cluster.name", "resource", "A build names its cluster by UUID alone."),
    _U("buildkite.cluster.graphql_id", "resource", "A build names its cluster by UUID alone."),
    _U("buildkite.step.id", "buildkite.step.group", "A job names its group by key alone; its step object is its own step's."),
    _U("buildkite.step.label", "buildkite.step.group", "A job names its group by key alone."),
    _U("buildkite.step.group.label", "buildkite.step, buildkite.step.group", "A job names its group by key alone."),
    _U("buildkite.step.matrix", "buildkite.step.group", "Jobs say it of their own step, not of the group around it."),
    _U("buildkite.step.web_url", "buildkite.step, buildkite.step.group", "The API gives builds and jobs addresses, but not steps."),
    _U("buildkite.job.concurrency.group", "buildkite.job", "Not among a job's fields."),
    _U("buildkite.job.concurrency.limit", "buildkite.job", "Not among a job's fields."),
    _U("buildkite.job.concurrency_wait_time_ms", "buildkite.job", "Jobs do not say when they began or ceased to be limited."),
)
# fmt: on
