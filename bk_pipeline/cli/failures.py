"""`bk-pipeline failures`: what broke in a period, by the logs and tests of jobs, new failures first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.sql import Database
from bk_pipeline.app import App
from bk_pipeline.cli.results import refuse_binary_terminal, write_answer
from bk_pipeline.cli.sql import open_database, period_of
from bk_pipeline.display import safe_url
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted, one_line

DEFAULT_DAYS, KNOWN_DAYS = 7, 30
LONGEST_PLACE, LONGEST_MESSAGE, LONGEST_LINE = 28, 40, 160
SHOWN_PAGES = 3
# Whether a job has details: its sections and test suites are below its span.
COVERAGE = """
WITH inside AS (
    SELECT DISTINCT parent_span_id AS span_id FROM spans
    WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
        AND name IN ('buildkite.job.section', 'test.suite')
)
SELECT (SELECT count(*) FROM inside) AS jobs_inside,
    count(*) FILTER (coalesce(pipeline, '') GLOB $pipeline AND coalesce(branch, '') GLOB $branch)
        AS failed,
    count(*) FILTER (coalesce(pipeline, '') GLOB $pipeline AND coalesce(branch, '') GLOB $branch
        AND span_id IN (FROM inside)) AS failed_inside
FROM jobs
WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
    AND status = 'error' AND type = 'script' AND started
"""
HOW = (
    "To read them, set BK_PIPELINE_JOB_DETAILS to a policy file and materialize job_details: "
    "docs/inside-jobs.md."
)

Row = Mapping[str, Any]


def failures(
    *,
    since: date | None,
    until: date | None,
    pipeline: str,
    branch: str,
    kind: str | None,
    format_: str,
    output: Path | None,
    limit: int | None,
) -> None:
    """Show what broke in a period."""
    refuse_binary_terminal(format_, output)
    app = App(Settings.load())
    with open_database(app) as database:
        days = known_period(app, since, until)
        lines, found = failures_of(database, days, pipeline, branch, kind=kind)
    rows = found.to_pylist()
    write_answer(
        lines + _pages(rows, app.settings.buildkite_hosts),
        [_shown(row) for row in rows],
        found,
        format_=format_,
        output=output,
        limit=limit,
    )


def known_period(app: App, since: date | None, until: date | None) -> dict[str, str]:
    """Return the first and the last day, and from which day on failures are known before them.

    By default the period is the last `DEFAULT_DAYS`. `known_since` is the first of the `KNOWN_DAYS`
    stored days before it.
    """
    days = period_of(app, since, until, default_days=DEFAULT_DAYS)
    before = [day for day in sorted(app.spans().parts_by_day()) if day < days["since"]]
    return days | {"known_since": min([*before[-KNOWN_DAYS:], days["since"]])}


def failures_of(
    database: Database,
    days: Mapping[str, str],
    pipeline: str = "*",
    branch: str = "*",
    *,
    kind: str | None = None,
) -> tuple[list[str], pa.Table]:
    """Return sentences about the failures of a period, and a row for each signature.

    Args:
        database: The views.
        days: `since`, `until` and `known_since`.
        pipeline, branch: Globs.
        kind: Only failures of this kind.
    """
    filters = {"pipeline": pipeline, "branch": branch}
    found = database.table(query_text("failures"), {**days, **filters, "kind": kind or "*"})
    period = {name: days[name] for name in ("since", "until")}
    [coverage] = database.table(COVERAGE, {**period, **filters}).to_pylist()
    return list(_summary(found.to_pylist(), coverage, period)), found


def _summary(rows: Sequence[Row], coverage: Row, days: Mapping[str, str]) -> list[str]:
    period = f"from {days['since']} to {days['until']}"
    if not coverage["jobs_inside"]:
        return [
            f"No job details are stored {period}, so the reasons of failures are unknown. {HOW}"
        ]
    told = [_told(rows, period)]
    if coverage["failed_inside"] < coverage["failed"]:
        told.append(
            f"Job details were read of {coverage['failed_inside']:,} of "
            f"{counted(coverage['failed'], 'failed job')}."
        )
    return told


def _told(rows: Sequence[Row], period: str) -> str:
    if not rows:
        return f"The job details {period} have no failure that matches."
    total = sum(row["failures"] for row in rows)
    told = f"{counted(total, 'failure')} with {counted(len(rows), 'message')} {period}"
    if all(row["is_new"] is None for row in rows):
        return f"{told}. No earlier job details tell which of them are new."
    new = [row for row in rows if row["is_new"]]
    if not new:
        return (
            f"{told}; none is new: all were seen in the stored days before (at most {KNOWN_DAYS})."
        )
    times = counted(sum(row["failures"] for row in new), "time")
    verb = "is" if len(new) == 1 else "are"
    return (
        f"{told}; {len(new):,} {verb} new, not seen in the stored days before (at most "
        f"{KNOWN_DAYS}), and failed jobs {times}."
    )


def _pages(rows: Sequence[Row], hosts: Collection[str]) -> list[str]:
    """Return a line for each of the first new failures: its message and its last page."""
    new = [row for row in rows if row["is_new"]][:SHOWN_PAGES]
    pages = [(_message(row, LONGEST_LINE), safe_url(row["url"], hosts)) for row in new]
    return [f"New: {message}  {page or ''}".rstrip() for message, page in pages]


def _message(row: Row, length: int) -> str:
    return one_line(row["message"] or "", length)


def _shown(row: Row) -> dict[str, Any]:
    """Return the columns for reading."""
    return {
        "": "new" if row["is_new"] else "",
        "kind": row["kind"],
        "failures": row["failures"],
        "first": f"{row['first_seen']:%m-%d}",
        "last": f"{row['last_seen']:%m-%d}",
        "where": _where(row),
        "message": _message(row, LONGEST_MESSAGE),
    }


def _where(row: Row) -> str:
    """Return pipeline and step, or how many there are."""
    pipelines, steps = row["pipelines"], row["steps"]
    pipeline = pipelines[0] if len(pipelines) == 1 else counted(len(pipelines), "pipeline")
    step = steps[0] if len(steps) == 1 else counted(len(steps), "step")
    return one_line(f"{pipeline} / {step}", LONGEST_PLACE)
