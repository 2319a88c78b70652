"""What a report of a day, a week or a month says, and in which order. The same for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bk_pipeline.analysis.period import KNOWN_DAYS, LISTED, PeriodStats, Row
from bk_pipeline.display import BUILDKITE, safe_url
from bk_pipeline.report.blocks import Block, Cell, Column, Heading, Paragraph, Picture, Table
from bk_pipeline.report.charts import (
    builds_over_time,
    costs_over_time,
    critical_paths,
    durations_by_pipeline,
    heat_map,
    trends,
)
from bk_pipeline.report.tables import (
    EXPENSIVE,
    FLAKY,
    PIPELINES,
    QUEUES,
    SECTIONS,
    LinkOf,
    builds_table,
    failures_table,
    percent,
    table_of,
    time_taken,
    with_labels,
)
from bk_pipeline.report.waterfall import waterfall
from bk_pipeline.text import counted, money

if TYPE_CHECKING:
    from bk_pipeline.analysis.change import Change

SpansOf = Callable[[str, str], Sequence[dict[str, Any]]]
QUANTILES = "p50 is the median; of 100 values, 90 are at most p90, and 99 at most p99."
NO_BUILDS = "No build that was created in this period has finished."


def blocks_of(
    stats: PeriodStats,
    *,
    spans_of: SpansOf,
    link_of: LinkOf,
    hosts: Collection[str] = (BUILDKITE,),
) -> list[Block]:
    """Return the report of a period.

    Args:
        stats: The period's numbers.
        spans_of: The spans of a build: the day it was created, and its trace id.
        link_of: Where a trace is looked at: trace id, start and end in nanoseconds.
        hosts: Hosts of Buildkite's pages; a build whose URL is elsewhere has no link.
    """
    if stats.total is None:
        return [Paragraph(NO_BUILDS)]
    zone, several_days = stats.period.zone, stats.period.days > 1

    def listed(rows: Sequence[Row], left_out: int = 0) -> Table:
        return builds_table(
            rows,
            zone=zone,
            with_date=several_days,
            link_of=link_of,
            hosts=hosts,
            left_out=left_out,
        )

    found: list[Block | None] = [
        Paragraph(summary(stats)),
        Paragraph(QUANTILES),
        builds_over_time(stats),
        *_changes(stats, hosts),
        *_critical_path(stats),
        Heading("Agent queues"),
        heat_map(stats.waits, zone.key) if several_days else None,
        table_of(stats.queues, QUEUES),
        *_costs(stats),
        Heading("Pipelines"),
        durations_by_pipeline(stats.pipelines) or Paragraph("No build has passed or failed."),
        table_of(stats.pipelines, PIPELINES),
        Heading("Most expensive steps"),
        table_of(with_labels(stats.steps, stats.steps), EXPENSIVE),
        Heading("Flaky steps"),
        table_of(with_labels(stats.flaky, stats.steps), FLAKY),
        Heading("Slowest builds"),
        *_waterfall(stats.slowest, spans_of),
        listed(stats.slowest),
        Heading("Failed builds"),
        listed(stats.failed, stats.total["failed"] - len(stats.failed)),
        *_inside(stats, hosts),
    ]
    return [one for one in found if one is not None]


def summary(stats: PeriodStats) -> str:
    """Return the most important numbers as sentences, with those of the period before."""
    now, before = stats.total, stats.before or {}
    if now is None:
        return NO_BUILDS
    period = stats.period
    parts = [f"{counted(now['builds'], 'build')} of {counted(len(stats.pipelines), 'pipeline')}"]
    if before:
        parts[0] += f" ({before['builds']:,} in the {period.days} days before)"
    if (rate := now["failure_rate"]) is not None:
        parts.append(f"{percent(rate)} failed" + _before(percent, before.get("failure_rate")))
    if (typical := now["duration_p50_s"]) is not None:
        words = f"half of them took less than {time_taken(typical)}"
        parts.append(words + _before(time_taken, before.get("duration_p50_s")))
    if (wait := now["queue_p90_s"]) is not None:
        words = f"for 90% the first job started within {time_taken(wait)}"
        parts.append(words + _before(time_taken, before.get("queue_p90_s")))
    if now["cost"] is not None:
        words = f"they cost {money(now['cost'], stats.currency)}"
        parts.append(words + _before(lambda cost: money(cost, None), before.get("cost")))
    return f"{'; '.join(parts)}."


def _before(show: Callable[[Any], str], value: Any) -> str:
    return "" if value is None else f" (before: {show(value)})"


def _changes(stats: PeriodStats, hosts: Collection[str]) -> Iterator[Block | None]:
    """Yield the trends of a longer period, and what changed in it."""
    if stats.period.days == 1:
        return
    yield Heading("Trends and changes")
    yield trends(stats)
    if not stats.changes:
        yield Paragraph("No lasting change began in this period.")
        return
    columns = [
        Column("what changed"),
        Column("before → after", is_number=True),
        Column("since"),
    ]
    rows = [_change_row(one, hosts) for one in stats.changes[:LISTED]]
    yield Table(columns, rows, left_out=max(len(stats.changes) - LISTED, 0))


def _change_row(change: Change, hosts: Collection[str]) -> Sequence[Cell]:
    ended = f", until {change.recovered_at:%d %b}" if change.recovered_at else ""
    return (
        Cell(f"{change.subject} {change.effect}{ended}"),
        Cell(change.values),
        Cell(change.since, safe_url(change.url, hosts)),
    )


def _critical_path(stats: PeriodStats) -> Iterator[Block | None]:
    picture = critical_paths(stats.pipelines)
    if picture is None or stats.total is None:
        return
    yield Heading("Critical path")
    whole = [stats.total[f"path_{part}_s"] or 0.0 for part in ("run", "wait", "blocked")]
    active = whole[0] + whole[1]
    if active:
        yield Paragraph(
            f"The critical path is the chain of jobs and waits that made a build as long as it was. "
            f"While nothing waited for people, {whole[0] / active:.0%} of it was running and "
            f"{whole[1] / active:.0%} was waiting, mostly for agents. A build waited for people for "
            f"{time_taken(whole[2] / stats.total['paths'])} on average."
        )
    yield picture


def _costs(stats: PeriodStats) -> Iterator[Block | None]:
    picture = costs_over_time(stats)
    if picture is not None:
        yield Heading("Costs")
        yield picture


def _inside(stats: PeriodStats, hosts: Collection[str]) -> Iterator[Block]:
    """Yield why jobs failed and which sections were slow, of jobs whose details were read."""
    if stats.failures:
        yield Heading("Why jobs failed")
        yield Paragraph(why_jobs_failed(stats.failures))
        yield failures_table(stats.failures, hosts)
    if stats.sections:
        yield Heading("Slowest sections")
        yield Paragraph("Parts of jobs whose logs were read, by the time that they took in all.")
        yield table_of(with_labels(stats.sections, stats.steps), SECTIONS)


def why_jobs_failed(failures: Sequence[Row]) -> str:
    """Return a sentence on the rows of `failures.sql`: how many by kind, and how many are new."""
    by_kind: Counter[str] = Counter()
    for row in failures:
        by_kind[row["kind"]] += row["failures"]
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in by_kind.most_common())
    told = (
        f"{counted(by_kind.total(), 'failure')} of jobs whose details were read: {kinds}. "
        f"{counted(len(failures), 'message')}"
    )
    if all(row["is_new"] is None for row in failures):
        return f"{told}."
    new = sum(bool(row["is_new"]) for row in failures)
    return f"{told}, of which {new:,} {'was' if new == 1 else 'were'} not seen in the {KNOWN_DAYS} days before."


def _waterfall(slowest: Sequence[Row], spans_of: SpansOf) -> Iterator[Picture]:
    for row in slowest[:1]:
        if spans := spans_of(row["day"].isoformat(), row["trace_id"]):
            yield waterfall(spans)
