"""`bk-pipeline doctor`: is everything set up, and if not, what is the one thing to do?"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bk_pipeline.cli.output import Console, echo
from bk_pipeline.clock import SystemClock
from bk_pipeline.doctor.checkup import Checkup
from bk_pipeline.doctor.findings import Answer, Finding, Installation, Verdict, exit_status, fine
from bk_pipeline.http.retry import report_pauses_to
from bk_pipeline.lines import Lines

MARKS = {
    Verdict.FINE: ("✓", "green"),
    Verdict.REMARK: ("!", "yellow"),
    Verdict.FAILED: ("✗", "red"),
    Verdict.UNCHECKED: ("·", "dim"),
}
NAME_WIDTH = 16


def doctor(days: int) -> None:
    """Check settings, keys, limits and places, in the order in which a run needs them."""
    console = Console(highlight=False)
    findings: list[Finding] = []
    with console.status("") as status, closing(Lines(partial(echo, err=True))) as lines:
        tell = status.update if console.is_terminal else lines.wait
        it = Installation(clock=SystemClock(), days=days, on_wait=tell)
        checkup = Checkup(it, pools)
        with closing(it), report_pauses_to(tell):
            for check in checkup.checks():
                status.update(f"{check.name} …")
                findings.append(checkup.run(check))
                _show(findings[-1], console)
    _sum_up(findings, console)
    sys.exit(exit_status(findings))


def pools(_: Installation) -> Answer:
    """How Dagster's pools stand. Makes no instance where there is none."""
    home = Path(os.environ.get("DAGSTER_HOME") or ".dagster").expanduser().absolute()
    config = home / "dagster.yaml"
    if not config.exists() or not ((home / "history").exists() or "storage:" in config.read_text()):
        return fine("Dagster has no instance yet; the first run makes it.")
    # Here, because Dagster takes seconds to import.
    from bk_pipeline.defs.lost_runs import check_pools  # noqa: PLC0415

    return check_pools(home)


def _show(found: Finding, console: Console) -> None:
    """A line a finding for whoever is no terminal; for a terminal, wrapped in its column."""
    mark, colour = MARKS[found.verdict]
    words = Text(found.words, style="dim" if found.verdict is Verdict.UNCHECKED else "")
    if not console.is_terminal:
        console.print(f"{mark} {found.check}: {found.words}", markup=False, soft_wrap=True)
        return
    line = Table.grid(padding=(0, 1))
    line.add_column(width=1)
    line.add_column(width=max(NAME_WIDTH, len(found.check)))
    line.add_column(overflow="fold")
    line.add_row(Text(mark, colour), Text(found.check), words)
    console.print(line)


def _sum_up(findings: list[Finding], console: Console) -> None:
    failed = sum(one.verdict is Verdict.FAILED for one in findings)
    console.print()
    if failed:
        what = "One thing" if failed == 1 else f"{failed} things, from the top"
        console.print(f"{what} to mend; then run bk-pipeline doctor again.")
    else:
        console.print(
            "Ready: make dev for the Dagster UI, or bk-pipeline backfill --from DAY --to DAY."
        )
