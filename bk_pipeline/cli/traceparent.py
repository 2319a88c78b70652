"""`bk-pipeline traceparent`: the parent of spans that are made inside a job."""

from __future__ import annotations

import os

import click

from bk_pipeline.cli.output import echo
from bk_pipeline.errors import ConfigError
from bk_pipeline.spans import ids
from bk_pipeline.spans.model import SpanKind


@click.command()
def traceparent() -> None:
    """Print the W3C TRACEPARENT of the Buildkite job that this runs in.

    Spans made with it as their parent hang under the job's span. It is worked out from
    BUILDKITE_BUILD_ID and BUILDKITE_JOB_ID; nothing is asked of anybody. The shell can do
    the same without this command:

    \b
      job="${BUILDKITE_JOB_ID//-/}"
      export TRACEPARENT="00-${BUILDKITE_BUILD_ID//-/}-${job: -16}-01"
    """
    build, job = (_of_the_job(name) for name in ("BUILDKITE_BUILD_ID", "BUILDKITE_JOB_ID"))
    echo(f"00-{ids.trace_id(build)}-{ids.uuid_span_id(SpanKind.JOB, job)}-01")


def _of_the_job(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ConfigError(
            f"{name} is not set. Run this inside a Buildkite job, where the agent sets it."
        )
    return value
