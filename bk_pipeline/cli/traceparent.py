"""`bk-pipeline traceparent`: apart from `trace`, because jobs wait for it."""

from __future__ import annotations

import os

from bk_pipeline.cli.output import echo
from bk_pipeline.errors import ConfigError
from bk_pipeline.spans import ids
from bk_pipeline.spans.model import SpanKind


def traceparent() -> None:
    """Print the W3C TRACEPARENT of the current Buildkite job."""
    build, job = (_of_the_job(name) for name in ("BUILDKITE_BUILD_ID", "BUILDKITE_JOB_ID"))
    echo(f"00-{ids.trace_id(build)}-{ids.uuid_span_id(SpanKind.JOB, job)}-01")


def _of_the_job(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ConfigError(
            f"{name} is not set. Run this inside a Buildkite job, where the agent sets it."
        )
    return value
