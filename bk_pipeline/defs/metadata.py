"""What Dagster shows of a result: metadata for people, attributes for self-tracing, columns.

The numbers come from typed results. Labels are written here and read nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import dagster as dg

from bk_pipeline import pipeline
from bk_pipeline.analysis.change import Change
from bk_pipeline.analysis.columns import COUNT, NUMBER, PIPELINES, StatsTable
from bk_pipeline.deliver.delivery import Delivery
from bk_pipeline.display import Page, escape_markdown, link, printable, safe_url
from bk_pipeline.report.markdown import markdown
from bk_pipeline.spans.fields import FIELDS, IDENTITY
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.telemetry import Value
from bk_pipeline.text import duration, shortened
from bk_pipeline.units import MS_PER_S

if TYPE_CHECKING:
    from bk_pipeline.analysis.deployments import Deployment
    from bk_pipeline.analysis.period import PeriodStats
    from bk_pipeline.analysis.summary import DayStats
    from bk_pipeline.deliver.destination import Destination
    from bk_pipeline.honeycomb.placing import Placement
    from bk_pipeline.pipeline import Extraction, FoundDeployments, JobDetails, Transformation
    from bk_pipeline.report.blocks import Block
    from bk_pipeline.store.spans import PartSummary

Metadata = Mapping[str, Any]
ROWS = "dagster/partition_row_count"
# As many as a person reads at once; `bk-pipeline quarantined` lists all.
# Rows of a list of deployments.
LISTED, LONGEST_NAME = 20, 60
SHOWN = 50
SHOWN_DECIMALS = 4


def cleaned(metadata: Metadata) -> Metadata:
    """Return the metadata with clean text: what Dagster gets is returned by this function.

    Metadata of Dagster's own types are left as they are; the only ones are numbers, columns, and
    the report.
    """
    return {printable(label): _clean(value) for label, value in metadata.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(one) for key, one in value.items()}
    # Not isinstance: values of Dagster's types may be tuples too.
    return [_clean(one) for one in value] if type(value) in {list, tuple, set} else value


def _present(rare: Metadata) -> Metadata:
    """Return what is worth a line: a zero, False or an empty list of something rare is not."""
    return {label: value for label, value in rare.items() if value}


def of_extraction(found: Extraction) -> Metadata:
    """Return the metadata of `raw_builds`."""
    rare = {
        "seconds waited for the rate limit or a retry": round(found.usage.waited_s),
        "clock skew in seconds": round(found.clock_skew.total_seconds()),
        "quarantined": found.quarantined,
        "damaged files": found.damaged,
    }
    return {
        "builds listed": found.listed,
        "builds stored": found.stored,
        "whole day listed": found.full,
        "requests": found.usage.requests,
        "new files": found.parts,
        **_present(rare),
        ROWS: found.stored,
    }


def of_transformation(made: Transformation, stored: PartSummary) -> Metadata:
    """Return the metadata of `spans`: of what was made, and of all that the day has."""
    reasons = list(map(str, stored.quarantined))
    rare = {
        "builds not finished yet": made.summary.unfinished,
        "builds skipped or not run": made.summary.skipped,
        "builds not settled yet": made.summary.held_back,
        "spans with adjusted times": made.summary.time_adjusted,
        "quarantined builds": len(reasons),
        "why they are quarantined": reasons[:SHOWN],
        "damaged files": made.damaged,
    }
    return {
        "builds read": made.summary.builds,
        "builds made into traces": made.summary.traces,
        "jobs": made.summary.jobs,
        "new spans": made.summary.spans,
        "new files": made.parts,
        **_present(rare),
        ROWS: stored.spans,
    }


def of_job_details(done: JobDetails) -> Metadata:
    """Return the metadata of `job_details`."""
    rare = {
        "read by earlier runs": done.known,
        "deleted or expired": done.sources["gone"],
        "too large": done.sources["too_large"],
        "unreadable": done.sources["unreadable"],
        "left to the next run": done.left_out,
        "why the run stopped": done.stopped or "",
        "missing scopes": done.missing,
        "spans beyond the limits": done.truncated,
        "damaged files": done.damaged,
    }
    return {
        "chosen jobs": done.chosen,
        "logs and artifacts read": done.sources["read"],
        "MiB read": round(done.bytes / 2**20, 1),
        **{f"new spans: {kind}": count for kind, count in sorted(done.spans.items())},
        **_present(rare),
    }


def of_delivery(
    done: Delivery, destination: Destination, page: Page | None, board: Page | None = None
) -> Metadata:
    """Return the metadata of a loader; `page` shows what the destination has, `board` a board of it."""
    rare = {
        "rejected": done.rejected,
        "reasons for rejection": [one.reason for one in done.rejections],
        "rejected, but not identified by the destination": done.rejected_unnamed,
        "sent again after an interrupted run": done.in_doubt_resent,
        "too old to be sent": done.too_old,
        "what is too old": destination.max_age_description if done.too_old else "",
        "left out by sampling rules": done.sampled_out,
        "builds left out by sampling rules": done.sampled_out_builds,
        "shortened to fit the limit": done.trimmed,
        "warnings": done.warnings,
    }
    return {
        **({"dataset": dg.MetadataValue.url(page)} if page else {}),
        **({"board": dg.MetadataValue.url(board)} if board else {}),
        "destination": destination.name,
        "accepted": done.accepted,
        "delivered before": done.already_settled,
        "requests": done.batches,
        **_present(rare),
        ROWS: done.accepted,
    }


def of_placement(placed: Placement, *, requests: int) -> Metadata:
    """Return the metadata of `honeycomb_markers` and `regression_markers`."""
    rare = {
        "markers found in Honeycomb": placed.found_again,
        "markers changed": placed.changed,
        "markers deleted in Honeycomb": placed.missing,
        "builds too old for a marker": placed.too_old,
    }
    return {
        "markers created": placed.created,
        "markers up to date": placed.unchanged,
        "requests": requests,
        **_present(rare),
    }


def of_stats(found: DayStats, blocks: Sequence[Block]) -> Metadata:
    """Return the metadata of `build_stats`: the day's report, and numbers that Dagster plots.

    The numbers are the columns of `PIPELINES` over all pipelines; unknown ones are absent.
    """
    if found.builds.empty:
        return {"builds": 0, ROWS: 0}
    whole = found.totals
    numbers = {
        column.name: int(whole[column.name])
        if column.type == COUNT
        else _rounded(float(whole[column.name]))
        for column in PIPELINES.columns
        if column.type in {COUNT, NUMBER} and not isnan(whole[column.name])
    }
    return {
        "report": dg.MetadataValue.md(markdown(blocks)),
        **numbers,
        ROWS: len(found.pipelines),
    }


def _rounded(number: float) -> float:
    """Return a number with as many decimals as a person reads; counts stay whole."""
    return round(number, SHOWN_DECIMALS)


# Labels of numbers of a period, and the columns that they come from.
PERIOD_NUMBERS = {
    "builds": "builds",
    "failure rate": "failure_rate",
    "median duration in seconds": "duration_p50_s",
    "p90 of the duration in seconds": "duration_p90_s",
    "p90 of the queue time in seconds": "queue_p90_s",
    "agent minutes": "agent_minutes",
    "flaky failures": "flaky_failures",
    "cost": "cost",
}


def of_periods(reports: Mapping[str, tuple[PeriodStats, Sequence[Block]]]) -> Metadata:
    """Return the metadata of `build_report`: a report for each period, and numbers of each."""
    shown: dict[str, Any] = {
        f"report of the {name}": dg.MetadataValue.md(markdown(blocks))
        for name, (_, blocks) in reports.items()
    }
    for name, (stats, _) in reports.items():
        total = stats.total or {"builds": 0}
        for label, column in PERIOD_NUMBERS.items():
            if total.get(column) is not None:
                shown[f"{label}, {name}"] = _rounded(total[column])
    return shown


def of_deployments(found: FoundDeployments, hosts: Collection[str]) -> Metadata:
    """Return the metadata of `deployments`; unknown numbers are absent.

    Args:
        found: The day's deployments.
        hosts: Hosts of Buildkite's pages; a deployment whose URL is elsewhere has no link.
    """
    from bk_pipeline.analysis.deployments import totals  # noqa: PLC0415  # loads pyarrow

    known = {name: value for name, value in totals(found.deployments).items() if value is not None}
    rows = [_deployment_row(one, hosts) for one in reversed(found.deployments[-LISTED:])]
    head = "| finished, UTC | service | environment | result | lead time | restored after |"
    lines = [head, "| --- | --- | --- | --- | ---: | ---: |", *rows]
    report = {"report": dg.MetadataValue.md("\n".join(lines))} if rows else {}
    return {**known, **report, ROWS: len(found.deployments)}


def _deployment_row(one: Deployment, hosts: Collection[str]) -> str:
    kind = "" if one.kind == "deployment" else f"{one.kind} "
    cells = (
        f"{one.finished_at:%H:%M}",
        escape_markdown(shortened(one.service, LONGEST_NAME)),
        escape_markdown(shortened(one.environment, LONGEST_NAME)),
        link(f"{kind}{one.outcome}", safe_url(one.url, hosts)),
        *(
            "" if seconds is None else duration(round(seconds * MS_PER_S))
            for seconds in (one.lead_time_s, one.restore_s)
        ),
    )
    return f"| {' | '.join(cells)} |"


def of_changes(found: Sequence[Change]) -> Metadata:
    """Return the metadata of `changes`: numbers, and a table of the first ones."""
    lines = ["| | before → after | since |", "| --- | ---: | --- |"]
    for one in found[:SHOWN]:
        cells = (f"{one.subject} {one.effect}", one.values, one.since)
        lines.append(f"| {' | '.join(map(escape_markdown, cells))} |")
    worse = [one for one in found if one.worse]
    return {
        "for the worse": len(worse),
        "for the worse, and last": sum(one.lasts for one in worse),
        "for the better": len(found) - len(worse),
        "report": dg.MetadataValue.md("\n".join(lines) if found else "No changes."),
        ROWS: len(found),
    }


def attributes_of(result: object) -> dict[str, Value]:
    """Return the counts of a result as span attributes."""
    match result:
        case pipeline.Extraction():
            counts = {
                "builds_listed": result.listed,
                "builds_stored": result.stored,
                "requests": result.usage.requests,
            }
        case pipeline.Transformation():
            counts = {
                "builds": result.summary.builds,
                "traces": result.summary.traces,
                "new_spans": result.summary.spans,
            }
        case Delivery():
            counts = {
                "accepted": result.accepted,
                "rejected": result.rejected,
                "too_old": result.too_old,
                "sampled_out": result.sampled_out,
                "requests": result.batches,
            }
        case pipeline.Placement():
            counts = {"created": result.created, "changed": result.changed}
        case _:
            counts = {}
    return {f"bk_pipeline.{name}": count for name, count in counts.items()}


def span_columns(kinds: frozenset[SpanKind]) -> dg.TableSchema:
    """Return the columns that spans of these kinds can have, as they are declared."""
    identity = [
        dg.TableColumn(name, type=type_, description=meaning)
        for name, (type_, meaning) in IDENTITY.items()
    ]
    attributes = [
        dg.TableColumn(
            field.name,
            type=str(field.type),
            description=f"{field.meaning} From {field.source}.",
            tags={"unit": field.unit} if field.unit else None,
        )
        for field in FIELDS
        if field.kinds & kinds
    ]
    return dg.TableSchema(identity + attributes)


def stats_columns(table: StatsTable) -> dg.TableSchema:
    """Return the columns of a table of `build_stats`, as they are declared."""
    return dg.TableSchema(
        [dg.TableColumn(one.name, type=one.type, description=one.meaning) for one in table.columns]
    )
