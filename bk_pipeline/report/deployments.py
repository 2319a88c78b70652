"""The section of a day's report that lists its deployments."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bk_pipeline.analysis.deployments import DEPLOYMENT, Deployment
from bk_pipeline.display import safe_url
from bk_pipeline.report.blocks import Block, Cell, Column, Heading, Table
from bk_pipeline.text import duration, shortened
from bk_pipeline.units import MS_PER_S

ROWS, LONGEST_NAME = 10, 60
HEADS = ("finished, UTC", "service", "environment", "result", "lead time", "restored after")
NUMBERS = HEADS[-2:]


def deployments_section(deployments: Sequence[Deployment], hosts: Collection[str]) -> list[Block]:
    """Return the section of the last deployments, newest first; nothing if there are none.

    Args:
        deployments: The day's, in the order of their ends.
        hosts: Hosts of Buildkite's pages; a deployment whose URL is elsewhere has no link.
    """
    if not deployments:
        return []
    rows = [_row(one, hosts) for one in reversed(deployments[-ROWS:])]
    columns = [Column(head, is_number=head in NUMBERS) for head in HEADS]
    table = Table(columns, rows, left_out=max(len(deployments) - ROWS, 0))
    return [Heading("Deployments"), table]


def _row(one: Deployment, hosts: Collection[str]) -> Sequence[Cell]:
    kind = "" if one.kind == DEPLOYMENT else f"{one.kind} "
    return (
        Cell(f"{one.finished_at:%H:%M}"),
        Cell(shortened(one.service, LONGEST_NAME)),
        Cell(shortened(one.environment, LONGEST_NAME)),
        Cell(f"{kind}{one.outcome}", safe_url(one.url, hosts)),
        *(
            Cell("" if seconds is None else duration(round(seconds * MS_PER_S)))
            for seconds in (one.lead_time_s, one.restore_s)
        ),
    )
