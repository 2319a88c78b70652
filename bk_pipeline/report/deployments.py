"""The section of a report on deployments: the four keys of several days, and the last deployments."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from zoneinfo import ZoneInfo

from bk_pipeline.analysis.deployments import DEPLOYMENT, Deployment, four_keys
from bk_pipeline.analysis.period import Row
from bk_pipeline.display import safe_url
from bk_pipeline.report.blocks import Block, Cell, Column, Heading, Table
from bk_pipeline.report.tables import percent, time_taken
from bk_pipeline.text import shortened

ROWS, LONGEST_NAME = 10, 60
NAMES = ("service", "environment")
LISTED = ("finished, UTC", *NAMES, "result", "lead time", "restored after")
KEYS = (*NAMES, "succeeded", "per day", "lead time p50", "changes failed", "restored after p50")


def deployments_section(
    deployments: Sequence[Deployment],
    hosts: Collection[str],
    *,
    days: tuple[date, date] | None = None,
) -> list[Block]:
    """Return the section; nothing if there are no deployments.

    Args:
        deployments: Those of the period, in the order of their ends.
        hosts: Hosts of Buildkite's pages; a deployment whose URL is elsewhere has no link.
        days: The first and the last day of several (UTC), for the four keys; None for one day.
    """
    if not deployments:
        return []
    when = "%H:%M" if days is None else "%d %b %H:%M"
    rows = [_row(one, hosts, when) for one in reversed(deployments[-ROWS:])]
    left_out = max(len(deployments) - ROWS, 0)
    found: list[Block] = [Heading("Deployments")]
    if days is not None:
        keys = four_keys(deployments, days, by=None, zone=ZoneInfo("UTC"))
        shown = [_keys_row(one) for one in keys[:ROWS]]
        found.append(Table(_columns(KEYS, 2), shown, left_out=max(len(keys) - ROWS, 0)))
    return [*found, Table(_columns(LISTED, 4), rows, left_out=left_out)]


def _columns(heads: Sequence[str], texts: int) -> list[Column]:
    """Return columns of which the first `texts` have texts and the others numbers."""
    return [Column(head, is_number=n >= texts) for n, head in enumerate(heads)]


def _keys_row(row: Row) -> Sequence[Cell]:
    return (
        *(Cell(shortened(row[name], LONGEST_NAME)) for name in NAMES),
        Cell(f"{row['succeeded']:,} of {row['deployments']:,}"),
        Cell(f"{row['deployments_per_day']:.1f}"),
        Cell(time_taken(row["lead_time_p50_s"])),
        Cell(percent(row["change_failure_rate"])),
        Cell(time_taken(row["restore_p50_s"])),
    )


def _row(one: Deployment, hosts: Collection[str], when: str) -> Sequence[Cell]:
    kind = "" if one.kind == DEPLOYMENT else f"{one.kind} "
    return (
        Cell(f"{one.finished_at:{when}}"),
        Cell(shortened(one.service, LONGEST_NAME)),
        Cell(shortened(one.environment, LONGEST_NAME)),
        Cell(f"{kind}{one.outcome}", safe_url(one.url, hosts)),
        Cell(time_taken(one.lead_time_s)),
        Cell(time_taken(one.restore_s)),
    )
